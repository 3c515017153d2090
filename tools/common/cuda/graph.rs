//! Captured graphs.

use super::context::Context;
use super::driver::Handle;
use super::Result;

/// A captured graph, ready to be launched; destroyed when dropped.
pub struct GraphExec {
    context: Context,
    graph: Handle,
    exec: Handle,
}

impl GraphExec {
    /// Takes over the graph.
    pub(super) fn new(context: &Context, graph: Handle) -> Result<GraphExec> {
        let driver = context.driver();
        let mut exec = 0;
        let made = context.with(|driver| {
            // SAFETY: a live graph; writes one handle.
            let code = unsafe { (driver.cuGraphInstantiateWithFlags)(&mut exec, graph, 0) };
            driver.check("cuGraphInstantiate", code)
        });
        if let Err(message) = made {
            // SAFETY: made by a capture, used by nobody.
            driver.report("cuGraphDestroy", unsafe { (driver.cuGraphDestroy)(graph) });
            return Err(message);
        }
        Ok(GraphExec { context: context.clone(), graph, exec })
    }

    pub(super) fn raw(&self) -> Handle {
        self.exec
    }

    /// Kernels, copies and memsets of the graph.
    pub fn node_count(&self) -> Result<usize> {
        let driver = self.context.driver();
        let mut count = 0;
        // SAFETY: a live graph; with a null list only the count is written.
        let code = unsafe { (driver.cuGraphGetNodes)(self.graph, std::ptr::null_mut(), &mut count) };
        driver.check("cuGraphGetNodes", code)?;
        Ok(count)
    }
}

impl Drop for GraphExec {
    fn drop(&mut self) {
        let driver = self.context.driver();
        // SAFETY: both made by this struct's makers and destroyed once.
        unsafe {
            driver.report("cuGraphExecDestroy", (driver.cuGraphExecDestroy)(self.exec));
            driver.report("cuGraphDestroy", (driver.cuGraphDestroy)(self.graph));
        }
    }
}
