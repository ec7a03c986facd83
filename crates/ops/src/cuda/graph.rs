//! CUDA graphs: work that is queued again and again is recorded once and then queued as a whole, which takes the host one
//! call and the card shorter pauses between kernels.
//!
//! A recording holds addresses, so it is good for one signature: the caller's buffers and shapes, and the scratch memory
//! that they found. The trick: keys of dropout differ from step to step, and the place of a new token from token to token, so
//! kernels that take one are noted while they are recorded, and get the run's own before each launch.

use super::context::{Context, Lane, Shape, require};
use crate::Dropout;
use crate::device::Changing;
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
    /// Whether the card had no memory for it, so that it is not tried again.
    is_too_large: bool,
}

/// A recorded graph, ready to be launched.
struct Graph {
    /// Its nodes are the names by which arguments are changed.
    graph: driver::CUgraph,
    executable: driver::CUgraphExec,
    changing: Vec<ChangingNode>,
    context: Arc<Context>,
}

// SAFETY: the driver's handles may be used from any thread whose current context is theirs.
unsafe impl Send for Graph {}
// SAFETY: it is changed through exclusive references only.
unsafe impl Sync for Graph {}

/// What an argument is made from that differs from run to run.
#[derive(Clone, Copy)]
pub(crate) enum Change {
    /// The key of this dropout, for the run's.
    Key(Dropout),
    /// The run's position.
    Position,
}

/// A kernel with arguments that change.
pub(crate) struct ChangingNode {
    pub(crate) node: driver::CUgraphNode,
    pub(crate) function: driver::CUfunction,
    pub(crate) shape: Shape,
    /// The structure that comes before its arguments, if one does.
    pub(crate) structure: Vec<u64>,
    pub(crate) arguments: Vec<u64>,
    /// Which arguments those are.
    pub(crate) changes: Vec<(usize, Change)>,
}

impl Recording {
    /// Queues what `queue` queues: by running it, or, once it has run often enough with this signature, by its recording.
    pub(crate) fn replay(
        &mut self,
        context: &Arc<Context>,
        signature: u64,
        changing: Changing,
        mut queue: impl FnMut(),
    ) {
        let signature = signature ^ context.scratch_generation().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if self.signature != signature {
            *self = Recording { signature, ..Recording::default() };
        }
        match &mut self.graph {
            Some(graph) => graph.launch(changing),
            None if self.runs < RUNS_BEFORE || self.is_too_large || !context.can_record() => {
                self.runs = self.runs.saturating_add(1);
                queue();
            }
            None => {
                self.graph = Graph::record(context, &mut queue);
                match &mut self.graph {
                    Some(graph) => graph.launch(changing),
                    None => {
                        self.is_too_large = true;
                        queue();
                    }
                }
            }
        }
    }
}

impl Graph {
    /// What `queue` queues, which is not run; `None` if the card has no memory for it.
    fn record(context: &Arc<Context>, queue: impl FnMut()) -> Option<Self> {
        let (graph, nodes) = context.record(queue);
        let mut executable = std::ptr::null_mut();
        // SAFETY: it is written; the graph was just recorded.
        let result = unsafe { driver::cuGraphInstantiateWithFlags(&mut executable, graph, 0) };
        let recorded = Graph { graph, executable, changing: nodes, context: context.clone() };
        // What a launch needs is taken now, while going without it is still to be had.
        let result = match result {
            // SAFETY: the graph was instantiated.
            driver::CUresult::CUDA_SUCCESS => unsafe {
                driver::cuGraphUpload(executable, context.stream(Lane::First))
            },
            failed => failed,
        };
        if result == driver::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return None;
        }
        require("cuGraphInstantiate", result);
        Some(recorded)
    }

    fn launch(&mut self, changing: Changing) {
        self.context.join();
        self.context.bind();
        for node in &mut self.changing {
            node.change(self.executable, changing);
        }
        // SAFETY: the graph was instantiated, and all memory that it names is alive: see the signature.
        let launched = unsafe { driver::cuGraphLaunch(self.executable, self.context.stream(Lane::First)) };
        require("cuGraphLaunch", launched);
    }
}

impl ChangingNode {
    /// Gives the graph the arguments of this run, if they are others than before.
    fn change(&mut self, executable: driver::CUgraphExec, changing: Changing) {
        let mut is_changed = false;
        for &(index, change) in &self.changes {
            let word = match (change, changing.dropout_key) {
                (Change::Key(dropout), Some(key)) => dropout.with_key(key).parts().0,
                (Change::Key(_), None) => continue,
                (Change::Position, _) => changing.position as u64,
            };
            is_changed |= self.arguments[index] != word;
            self.arguments[index] = word;
        }
        if is_changed {
            self.set(executable);
        }
    }

    fn set(&mut self, executable: driver::CUgraphExec) {
        let structure = (!self.structure.is_empty()).then_some(self.structure.as_ptr());
        let words = structure.into_iter().chain(self.arguments.iter().map(std::ptr::from_ref));
        let mut pointers: Vec<*mut c_void> = words.map(|word| word.cast_mut().cast()).collect();
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
        self.context.try_bind();
        // SAFETY: they are not used again. A launch in progress goes on. There is no executable where there was no memory.
        unsafe {
            if !self.executable.is_null() {
                let _ = driver::cuGraphExecDestroy(self.executable);
            }
            let _ = driver::cuGraphDestroy(self.graph);
        }
    }
}
