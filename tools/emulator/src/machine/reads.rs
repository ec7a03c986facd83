//! What products of warpgroups read of shared memory, from when they are begun until they are waited for: nobody may write it
//! meanwhile. Products are made at once here, so this is what shows of a wait that is missing.

use super::access::lanes_of;
use super::op::Slot;
use super::shared::Shared;
use super::warp::Warp;
use std::collections::VecDeque;

/// Bytes that are looked at together.
pub(super) const CHUNK: usize = 16;

/// How many products read each chunk of each block of a cluster.
#[derive(Default)]
pub(super) struct Reads {
    blocks: Vec<Vec<u16>>,
    /// Chunks that are read, each as often as it is.
    count: usize,
}

impl Reads {
    /// For blocks of so many bytes; nothing is read.
    pub(super) fn start(&mut self, num_blocks: usize, bytes: usize) {
        self.blocks.resize(num_blocks, Vec::new());
        self.blocks.iter_mut().for_each(|block| {
            block.clear();
            block.resize(bytes.div_ceil(CHUNK), 0);
        });
        self.count = 0;
    }

    fn add(&mut self, rank: u32, chunks: &[u32]) {
        chunks.iter().for_each(|&chunk| self.blocks[rank as usize][chunk as usize] += 1);
        self.count += chunks.len();
    }

    fn remove(&mut self, rank: u32, chunks: &[u32]) {
        chunks.iter().for_each(|&chunk| self.blocks[rank as usize][chunk as usize] -= 1);
        self.count -= chunks.len();
    }

    /// Whether bytes may be written.
    #[inline(always)]
    pub(super) fn check(&self, rank: usize, offset: usize, bytes: usize) -> Result<(), String> {
        if self.count == 0 { Ok(()) } else { self.look(rank, offset, bytes) }
    }

    #[cold]
    fn look(&self, rank: usize, offset: usize, bytes: usize) -> Result<(), String> {
        let chunks = &self.blocks[rank][offset / CHUNK..(offset + bytes).div_ceil(CHUNK)];
        match chunks.iter().any(|&count| count > 0) {
            true => Err(format!("shared memory at {offset:#x} is written while a product reads it")),
            false => Ok(()),
        }
    }
}

/// A warp's products: what those read that are not committed yet, and committed groups, the oldest first.
#[derive(Default)]
pub(super) struct Products {
    open: Vec<u32>,
    groups: VecDeque<Vec<u32>>,
}

impl Warp {
    /// Notes what a product reads of this block's shared memory.
    pub(super) fn begin_product(&mut self, mut chunks: Vec<u32>, shared: &mut Shared) {
        chunks.sort_unstable();
        chunks.dedup();
        shared.reads.add(self.rank, &chunks);
        self.products.open.extend(chunks);
    }

    pub(super) fn commit_products(&mut self) {
        let group = std::mem::take(&mut self.products.open);
        self.products.groups.push_back(group);
    }

    /// Ends all groups of products but the last.
    pub(super) fn wait_for_products(&mut self, mask: u32, pending: Slot, shared: &mut Shared) {
        let Some(first) = lanes_of(mask).next() else { return };
        let pending = self.lanes.words[pending as usize][first] as usize;
        while self.products.groups.len() > pending
            && let Some(group) = self.products.groups.pop_front()
        {
            shared.reads.remove(self.rank, &group);
        }
    }
}
