//! Work shared between threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

/// Computes items `0 .. items` on up to `threads` threads, each with a scratch of its own, and hands the
/// results to `store` on the calling thread, in the order in which they come.
pub fn share<S, T: Send>(
    threads: usize,
    items: usize,
    scratch: impl Fn() -> S + Sync,
    compute: impl Fn(&mut S, usize) -> T + Sync,
    mut store: impl FnMut(T),
) {
    let next = AtomicUsize::new(0);
    // Bounded: workers wait where the caller stores more slowly than they compute.
    let (send, receive) = sync_channel::<T>(2 * threads);
    thread::scope(|scope| {
        for _ in 0..threads.min(items) {
            let send = send.clone();
            let (next, scratch, compute) = (&next, &scratch, &compute);
            scope.spawn(move || {
                let mut scratch = scratch();
                loop {
                    let item = next.fetch_add(1, Ordering::Relaxed);
                    if item >= items || send.send(compute(&mut scratch, item)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        receive.into_iter().for_each(&mut store);
    });
}
