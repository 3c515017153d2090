//! A number for each call, by which thread blocks of a launch know each other's words in the workspace
//! (`cuda/common/rendezvous.cuh`).

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

/// A number that no memory holds but by a chance of one in 2^64, and no other call of this process has.
pub fn next() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    static CALLS: AtomicU64 = AtomicU64::new(0);
    // The keys of a hash map are the random numbers that the standard library has.
    let seed = *SEED.get_or_init(|| RandomState::new().build_hasher().finish());
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    // SplitMix64: one to one, and neighbours have nothing in common. So values a little above one (a graph that is
    // replayed counts on from it) are as good as new, too.
    let mut x = seed.wrapping_add(call.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn calls_of_all_threads_differ() {
        let threads: Vec<_> =
            (0..4).map(|_| std::thread::spawn(|| (0..10_000).map(|_| super::next()).collect::<Vec<_>>())).collect();
        let all: Vec<u64> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        let mut high: Vec<u64> = all.iter().map(|x| x >> 32).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 40_000);
        // They are spread: of 40,000 random upper halves hardly any two are alike.
        high.sort_unstable();
        high.dedup();
        assert!(high.len() > 39_900, "{}", high.len());
    }
}
