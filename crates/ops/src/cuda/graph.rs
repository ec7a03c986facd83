//! CUDA graphs: work that is queued again and again is recorded once and then queued as a whole, which takes the host one
//! call and the card shorter pauses between kernels.
//!
//! A recording holds addresses, so it is good for one signature: the caller's buffers and shapes, and the scratch memory
//! that they found. The trick: keys of dropout differ from step to step, so kernels that take one are noted while they are
//! recorded, and get the step's own before each launch.

use super::context::{Context, Lane, Shape, require};
use crate::Dropout;
use cudarc::driver::sys as driver;
use std::ffi::c_void;
use std::sync::Arc;

/// Runs before something is recorded: the first may compile kernels, time algorithms and allocate scratch memory.
const RUNS_BEFORE: u32 = 2;

/// Queued work, recorded or on its way to be.
#[derive(Default)]
pub struct Recording {
    signature: u64,
    runs: u32,
    graph: Option<Graph>,
}

/// A recorded graph, ready to be launched.
struct Graph {
    /// Its nodes are the names by which arguments are changed.
    graph: driver::CUgraph,
    executable: driver::CUgraphExec,
    dropouts: Vec<DropoutNode>,
    context: Arc<Context>,
}

// SAFETY: the driver's handles may be used from any thread whose current context is theirs.
unsafe impl Send for Graph {}
// SAFETY: it is changed through exclusive references only.
unsafe impl Sync for Graph {}

/// A kernel that takes the key of a dropout.
pub(crate) struct DropoutNode {
    pub(crate) node: driver::CUgraphNode,
    pub(crate) function: driver::CUfunction,
    pub(crate) shape: Shape,
    pub(crate) arguments: Vec<u64>,
    /// Which argument is the key.
    pub(crate) index: usize,
    pub(crate) dropout: Dropout,
}

impl Recording {
    /// Queues what `queue` queues: by running it, or, once it has run often enough with this signature, by its recording.
    pub(crate) fn replay(
        &mut self,
        context: &Arc<Context>,
        signature: u64,
        dropout_key: Option<u64>,
        mut queue: impl FnMut(),
    ) {
        let signature = signature ^ context.scratch_generation().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if self.signature != signature {
            *self = Recording { signature, ..Recording::default() };
        }
        match &mut self.graph {
            Some(graph) => graph.launch(dropout_key),
            None if self.runs < RUNS_BEFORE || !context.can_record() => {
                self.runs += 1;
                queue();
            }
            None => {
                let (graph, executable, dropouts) = context.record(queue);
                let graph = Graph { graph, executable, dropouts, context: context.clone() };
                self.graph.insert(graph).launch(dropout_key);
            }
        }
    }
}

impl Graph {
    fn launch(&mut self, dropout_key: Option<u64>) {
        self.context.join();
        self.context.bind();
        if let Some(key) = dropout_key {
            for node in &mut self.dropouts {
                node.arguments[node.index] = node.dropout.with_key(key).parts().0;
                node.set(self.executable);
            }
        }
        // SAFETY: the graph was instantiated, and all memory that it names is alive: see the signature.
        let launched = unsafe { driver::cuGraphLaunch(self.executable, self.context.stream(Lane::First)) };
        require("cuGraphLaunch", launched);
    }
}

impl DropoutNode {
    /// Gives the graph this node's arguments.
    fn set(&mut self, executable: driver::CUgraphExec) {
        let mut pointers: Vec<*mut c_void> =
            self.arguments.iter().map(|argument| std::ptr::from_ref(argument).cast_mut().cast()).collect();
        let (x, y, z) = self.shape.grid;
        let parameters = driver::CUDA_KERNEL_NODE_PARAMS {
            func: self.function,
            gridDimX: x as u32,
            gridDimY: y as u32,
            gridDimZ: z as u32,
            blockDimX: self.shape.block as u32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shape.shared_bytes as u32,
            kernelParams: pointers.as_mut_ptr(),
            extra: std::ptr::null_mut(),
            kern: std::ptr::null_mut(),
            ctx: std::ptr::null_mut(),
        };
        // SAFETY: the node is of the graph that the executable was made from; arguments are copied.
        let set = unsafe { driver::cuGraphExecKernelNodeSetParams_v2(executable, self.node, &parameters) };
        require("cuGraphExecKernelNodeSetParams", set);
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.context.bind();
        // SAFETY: they are not used again. A launch in progress goes on.
        let _ = unsafe { (driver::cuGraphExecDestroy(self.executable), driver::cuGraphDestroy(self.graph)) };
    }
}
