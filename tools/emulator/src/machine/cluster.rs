//! The blocks of a cluster: which warp runs, and who waits for whom.

use super::Launch;
use super::lanes::LANES;
use super::reads::Reads;
use super::shared::Shared;
use super::warp::{Place, State, Surroundings, Warp};
use crate::driver::settings;
use crate::ptx::Kernel;
use crate::streams::Schedule;

/// Barriers that a block has.
const BARRIERS: u32 = 16;

pub(super) struct Cluster<'a> {
    kernel: &'a Kernel,
    launch: &'a Launch,
    /// The warps of all blocks, block after block.
    warps: Vec<Warp>,
    warps_of_block: usize,
    shared: Shared,
}

impl<'a> Cluster<'a> {
    pub(super) fn new(kernel: &'a Kernel, launch: &'a Launch) -> Self {
        let warps_of_block = (launch.block.iter().product::<u32>() as usize).div_ceil(LANES);
        let bytes = kernel.static_shared + launch.shared_bytes as usize;
        let blocks = vec![vec![0; bytes]; kernel.cluster as usize];
        let warps = (0..warps_of_block * blocks.len()).map(|_| Warp::default()).collect();
        let shared =
            Shared { blocks, reads: Reads::default(), pending: Vec::new(), is_late: false, changes: 0 };
        Cluster { kernel, launch, warps, warps_of_block, shared }
    }

    /// Executes the cluster of this number.
    pub(super) fn run(&mut self, index: usize) -> Result<(), String> {
        let first = index * self.kernel.cluster as usize;
        let [width, height, _] = self.launch.grid.map(|n| n as usize);
        let index_of = |block: usize| [block % width, block / width % height, block / width / height];
        // A grid of one cluster has its turn when work is queued in another way.
        self.shared.is_late = (index % 2 == 1) != (settings::get().schedule != Schedule::Eager);
        self.shared.pending.clear();
        let bytes = self.shared.blocks.first().map_or(0, Vec::len);
        self.shared.reads.start(self.shared.blocks.len(), bytes);
        self.shared.blocks.iter_mut().for_each(|block| block.fill(0xff));
        for (i, warp) in self.warps.iter_mut().enumerate() {
            let rank = i / self.warps_of_block;
            let place = Place {
                grid: self.launch.grid,
                block: self.launch.block,
                index: index_of(first + rank).map(|n| n as u32),
                rank: rank as u32,
                cluster: self.kernel.cluster,
                warp: (i % self.warps_of_block) as u32,
                parameters: self.launch.parameters.as_ptr() as u64,
            };
            warp.start(self.kernel, &place);
        }
        while self.warps.iter().any(|warp| warp.alive != 0) {
            self.round(|rank| index_of(first + rank))?;
        }
        if !self.shared.pending.is_empty() {
            return Err("a block ended while copies to it were under way".into());
        }
        Ok(())
    }

    /// Lets every warp run until it waits, and then those go on that may.
    fn round(&mut self, index_of: impl Fn(usize) -> [usize; 3]) -> Result<(), String> {
        let before = self.shared.changes;
        let count = self.warps.len();
        for i in 0..count {
            let i = if self.shared.is_late { count - 1 - i } else { i };
            let warp = &mut self.warps[i];
            let mut around = Surroundings {
                kernel: self.kernel,
                parameters: &self.launch.parameters,
                shared: &mut self.shared,
            };
            #[cfg_attr(
                not(target_arch = "x86_64"),
                expect(unused_unsafe, reason = "only there it is unsafe")
            )]
            // SAFETY: `machine::run` has looked whether the processor can do what these functions are compiled for.
            let result = unsafe { warp.run(&mut around) };
            result.map_err(|error| {
                let text = &self.kernel.texts[warp.pc];
                let (block, number) = (index_of(warp.rank as usize), warp.number);
                format!("{error}; block {block:?}, warp {number}, instruction {}: {text}", warp.pc)
            })?;
        }
        let released = self.release();
        let mut spinning = false;
        for fragment in self.warps.iter_mut().flat_map(|warp| &mut warp.fragments) {
            if fragment.state == State::Spinning {
                fragment.state = State::Ready;
                spinning = true;
            }
        }
        if released || (spinning && self.shared.changes != before) {
            return Ok(());
        }
        if self.warps.iter().all(|warp| warp.alive == 0) {
            return Ok(());
        }
        self.copy_late()
    }

    /// When nobody can go on, the copies under way are made, one of them.
    fn copy_late(&mut self) -> Result<(), String> {
        // The newest first: copies may end in any order.
        let Some(copy) = self.shared.pending.pop() else { return Err(self.describe_deadlock()) };
        let made = self.shared.make(&copy);
        made.map_err(|error| format!("{error}: {}", self.kernel.texts[copy.at]))
    }

    /// Lets threads go on whose barrier is complete. Whether there were any.
    fn release(&mut self) -> bool {
        let mut released = false;
        for warps in self.warps.chunks_mut(self.warps_of_block) {
            let alive: u32 = warps.iter().map(|warp| warp.alive.count_ones()).sum();
            for wanted in 0..BARRIERS {
                let (mut waiting, mut expected) = (0, 0);
                for fragment in warps.iter().flat_map(|warp| &warp.fragments) {
                    if let State::Barrier { number, count } = fragment.state
                        && number == wanted
                    {
                        waiting += fragment.mask.count_ones();
                        expected = if count == 0 { alive } else { count };
                    }
                }
                if waiting == 0 || waiting < expected {
                    continue;
                }
                released = true;
                for fragment in warps.iter_mut().flat_map(|warp| &mut warp.fragments) {
                    if matches!(fragment.state, State::Barrier { number, .. } if number == wanted) {
                        fragment.state = State::Ready;
                    }
                }
            }
        }
        let alive: u32 = self.warps.iter().map(|warp| warp.alive.count_ones()).sum();
        let fragments = || self.warps.iter().flat_map(|warp| &warp.fragments);
        let at_cluster = fragments().filter(|fragment| fragment.state == State::Cluster);
        if alive > 0 && at_cluster.map(|fragment| fragment.mask.count_ones()).sum::<u32>() == alive {
            released = true;
            let all = self.warps.iter_mut().flat_map(|warp| &mut warp.fragments);
            all.for_each(|fragment| fragment.state = State::Ready);
        }
        released
    }

    fn describe_deadlock(&self) -> String {
        let mut lines = vec!["nobody can go on".to_string()];
        for warp in self.warps.iter().filter(|warp| warp.alive != 0) {
            for fragment in &warp.fragments {
                // Those that wait for others of the warp have not executed their instruction.
                let is_done = !matches!(fragment.state, State::Ready | State::Members);
                let text = &self.kernel.texts[fragment.pc - usize::from(is_done)];
                let (rank, number) = (warp.rank, warp.number);
                let (mask, state) = (fragment.mask, fragment.state);
                lines.push(format!("block {rank} warp {number} lanes {mask:#x} {state:?}, at: {text}"));
            }
        }
        lines.truncate(40);
        lines.join("\n")
    }
}
