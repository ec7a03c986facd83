//! A warp: where its threads are, and the loop that executes them.
//!
//! Threads that are at the same instruction form a fragment. The fragment that is furthest behind is executed, so that
//! threads which parted come together again where their ways meet. An instruction that all must execute together waits for
//! those that are missing.

use super::lanes::{FULL, LANES, Lanes};
use super::op::{Address, Base, Initial, Op, Shuffle, Special};
use super::reads::Products;
use super::shared::Shared;
use crate::ptx::Kernel;

/// What a warp needs of its surroundings.
pub(super) struct Surroundings<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) parameters: &'a [u8],
    pub(super) shared: &'a mut Shared,
}

/// Why threads do not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    /// At a barrier of the block, of this number, for so many threads; 0: all.
    Barrier {
        number: u32,
        count: u32,
    },
    /// Before barrier.cluster.wait.
    Cluster,
    /// They asked whether a phase had ended, and it had not.
    Spinning,
    /// At an instruction that other threads of the warp must come to.
    Members,
}

/// Threads at one instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment {
    pub(super) pc: usize,
    pub(super) mask: u32,
    pub(super) state: State,
}

/// What comes after an instruction.
pub(super) enum Next {
    On,
    /// To another instruction, for the threads that executed this one.
    To(usize),
    Exit,
    /// The instruction is done; its threads wait.
    Wait(State),
    /// It is not done: threads are missing.
    Again(State),
}

/// cp.async of a lane: those not committed yet, and committed groups, the oldest first.
#[derive(Default)]
pub(super) struct LaneCopies {
    pub(super) open: Vec<LaneCopy>,
    pub(super) groups: std::collections::VecDeque<Vec<LaneCopy>>,
}

pub(super) struct LaneCopy {
    pub(super) to: u64,
    pub(super) from: u64,
    pub(super) bytes: u32,
    pub(super) given: u32,
}

#[derive(Default)]
pub(super) struct Warp {
    pub(super) lanes: Lanes,
    pub(super) fragments: Vec<Fragment>,
    /// Threads that have not ended.
    pub(super) alive: u32,
    /// Threads that have arrived at the cluster's barrier.
    arrived: u32,
    /// The block's rank in its cluster.
    pub(super) rank: u32,
    /// Its number in the block.
    pub(super) number: u32,
    pub(super) copies: Vec<LaneCopies>,
    pub(super) products: Products,
    /// For each instruction, the allocation that it accessed last.
    pub(super) spans: Vec<(u64, u64)>,
    /// The instruction that is executed.
    pub(super) pc: usize,
}

/// Where a warp is, and what a thread of it knows when it starts.
pub(super) struct Place {
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) index: [u32; 3],
    pub(super) rank: u32,
    pub(super) cluster: u32,
    pub(super) warp: u32,
    pub(super) parameters: u64,
}

impl Warp {
    /// Makes it ready for the first instruction.
    pub(super) fn start(&mut self, kernel: &Kernel, place: &Place) {
        let registers = &kernel.registers;
        // What was never written is seen: it is a number like no other.
        self.lanes.words.resize(registers.num_words as usize, [0xdead_beef; LANES]);
        self.lanes.doubles.resize(registers.num_doubles as usize, [0xdead_beef_dead_beef; LANES]);
        self.lanes.predicates.resize(registers.num_predicates as usize, 0xaaaa_aaaa);
        let [width, height, depth] = place.block;
        let thread = |lane: usize| place.warp * LANES as u32 + lane as u32;
        let value = |initial: Initial, lane: usize| -> u64 {
            match initial {
                Initial::Constant(value) => value,
                Initial::Shared(offset) => u64::from(Shared::address(place.rank, offset)),
                Initial::Parameter(offset) => place.parameters + u64::from(offset),
                Initial::Special(special) => u64::from(match special {
                    Special::Thread(0) => thread(lane) % width,
                    Special::Thread(1) => thread(lane) / width % height,
                    Special::Thread(_) => thread(lane) / width / height,
                    Special::NumThreads(i) => place.block[i],
                    Special::Block(i) => place.index[i],
                    Special::NumBlocks(i) => place.grid[i],
                    Special::Lane => lane as u32,
                    Special::Warp => place.warp,
                    Special::ClusterRank => place.rank,
                    Special::ClusterBlocks => place.cluster,
                }),
            }
        };
        // Constants stay what they are from block to block.
        let is_first = self.spans.is_empty();
        let is_wanted = |initial: &Initial| is_first || !matches!(initial, Initial::Constant(_));
        for (slot, initial) in registers.words.iter().filter(|(_, initial)| is_wanted(initial)) {
            self.lanes.words[*slot as usize] = std::array::from_fn(|lane| value(*initial, lane) as u32);
        }
        for (slot, initial) in registers.doubles.iter().filter(|(_, initial)| is_wanted(initial)) {
            self.lanes.doubles[*slot as usize] = std::array::from_fn(|lane| value(*initial, lane));
        }
        for &(slot, is_set) in &registers.predicates {
            self.lanes.predicates[slot as usize] = if is_set { FULL } else { 0 };
        }
        let num_threads = width * height * depth;
        self.alive =
            (0..LANES).filter(|&lane| thread(lane) < num_threads).fold(0, |mask, lane| mask | 1 << lane);
        self.arrived = 0;
        self.rank = place.rank;
        self.number = place.warp;
        self.fragments = vec![Fragment { pc: 0, mask: self.alive, state: State::Ready }];
        self.copies.clear();
        self.products = Products::default();
        self.copies.resize_with(LANES, LaneCopies::default);
        self.spans.resize(kernel.code.len(), (0, 0));
    }

    /// Executes until no thread is ready.
    ///
    /// # Errors
    /// What an instruction did wrong.
    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    pub(super) fn run(&mut self, around: &mut Surroundings<'_>) -> Result<(), String> {
        while let Some(chosen) = self.furthest_behind() {
            let mut fragment = self.fragments.swap_remove(chosen);
            loop {
                let instruction = &around.kernel.code[fragment.pc];
                let mask = match instruction.guard {
                    None => fragment.mask,
                    Some(guard) => {
                        let bits = self.lanes.predicates[guard.predicate as usize];
                        fragment.mask & if guard.is_negated { !bits } else { bits }
                    }
                };
                self.pc = fragment.pc;
                let next = if mask == 0 { Next::On } else { self.step(&instruction.op, mask, around)? };
                match next {
                    Next::On => fragment.pc += 1,
                    Next::To(target) if mask == fragment.mask => fragment.pc = target,
                    Next::To(target) => {
                        self.fragments.push(Fragment { pc: target, mask, state: State::Ready });
                        fragment.mask &= !mask;
                        fragment.pc += 1;
                    }
                    Next::Exit => {
                        self.alive &= !mask;
                        around.shared.changes += 1;
                        // Nobody waits for these any more.
                        let waiting = self.fragments.iter_mut().filter(|other| other.state == State::Members);
                        waiting.for_each(|other| other.state = State::Ready);
                        fragment.mask &= !mask;
                        fragment.pc += 1;
                        if fragment.mask == 0 {
                            break;
                        }
                    }
                    Next::Wait(state) | Next::Again(state) => {
                        if matches!(next, Next::Wait(_)) {
                            fragment.pc += 1;
                        }
                        if mask != fragment.mask {
                            return Err(
                                "an instruction that waits, under a predicate that only some have".into()
                            );
                        }
                        fragment.state = state;
                        self.fragments.push(fragment);
                        break;
                    }
                }
                if !self.fragments.is_empty() && !self.meet(&mut fragment) {
                    self.fragments.push(fragment);
                    break;
                }
            }
        }
        Ok(())
    }

    fn furthest_behind(&self) -> Option<usize> {
        let ready = (0..self.fragments.len()).filter(|&i| self.fragments[i].state == State::Ready);
        ready.min_by_key(|&i| self.fragments[i].pc)
    }

    /// Takes in threads that are at the same instruction. Whether the fragment is still the one to be executed.
    fn meet(&mut self, fragment: &mut Fragment) -> bool {
        let mut is_first = true;
        self.fragments.retain(|other| {
            let waits = !matches!(other.state, State::Ready | State::Members);
            if waits || other.pc != fragment.pc {
                is_first &= other.state != State::Ready || other.pc > fragment.pc;
                return true;
            }
            fragment.mask |= other.mask;
            false
        });
        is_first
    }

    /// Whether all `members` that are alive execute an instruction now.
    fn are_together(&self, members: u32, mask: u32) -> bool {
        members & self.alive & !mask == 0
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    fn step(&mut self, op: &Op, mask: u32, around: &mut Surroundings<'_>) -> Result<Next, String> {
        let lanes = &mut self.lanes;
        match *op {
            Op::Nothing => {}
            Op::Word1 { f, d, a } => lanes.word1(mask, f, d, a),
            Op::Word2 { f, d, a, b } => lanes.word2(mask, f, d, a, b),
            Op::Word3 { f, d, a, b, c } => lanes.word3(mask, f, [d, a, b, c]),
            Op::InsertWord { d, a, b, position, length } => {
                lanes.insert_word(mask, d, [a, b, position, length]);
            }
            Op::Double1 { f, d, a } => lanes.double1(mask, f, d, a),
            Op::Double2 { f, d, a, b } => lanes.double2(mask, f, d, a, b),
            Op::Double3 { f, d, a, b, c } => lanes.double3(mask, f, [d, a, b, c]),
            Op::InsertDouble { d, a, b, position, length } => {
                lanes.insert_double(mask, d, [a, b, position, length]);
            }
            Op::ShiftDouble { f, d, a, b } => lanes.shift_double(mask, f, d, a, b),
            Op::Widen { f, d, a } => lanes.widen(mask, f, d, a),
            Op::Narrow { f, d, a } => lanes.narrow(mask, f, d, a),
            Op::MultiplyWide { is_signed, d, a, b } => lanes.multiply_wide(mask, is_signed, [d, a, b], None),
            Op::MultiplyAddWide { is_signed, d, a, b, c } => {
                lanes.multiply_wide(mask, is_signed, [d, a, b], Some(c));
            }
            Op::Join { d, low, high } => lanes.join(mask, d, low, high),
            Op::Split { low, high, a } => lanes.split(mask, low, high, a),
            Op::JoinHalves { d, low, high } => lanes.join_halves(mask, d, low, high),
            Op::SplitHalves { low, high, a } => lanes.split_halves(mask, low, high, a),
            Op::CompareWords { f, number, d, a, b } => lanes.compare_words(mask, f, number, [d, a, b]),
            Op::CompareDoubles { f, number, d, a, b } => lanes.compare_doubles(mask, f, number, [d, a, b]),
            Op::SelectWord { d, a, b, predicate } => lanes.select_word(mask, [d, a, b], predicate),
            Op::SelectDouble { d, a, b, predicate } => lanes.select_double(mask, [d, a, b], predicate),
            Op::Logic { f, d, a, b } => lanes.logic(mask, f, [d, a, b]),
            Op::MovePredicate { d, a, is_negated } => {
                let bits = lanes.predicates[a as usize];
                lanes.set_predicate(d, mask, if is_negated { !bits } else { bits });
            }
            Op::LoadParameter { d, bytes, is_double, offset } => {
                let bytes = offset as usize..offset as usize + usize::from(bytes);
                self.load_parameter(mask, d, is_double, bytes, around)?;
            }
            Op::Load(ref access) => self.load(mask, access, around.shared)?,
            Op::Store(ref access) => self.store(mask, access, around.shared)?,
            Op::AtomicAdd { space, d, address, a } => {
                self.atomic_add(mask, space, d, address, a, around.shared)?;
            }
            Op::Branch { target } => return Ok(Next::To(target as usize)),
            Op::Exit => {
                self.finish_copies(mask, around.shared)?;
                return Ok(Next::Exit);
            }
            Op::MapAddress { d, a, block } => self.map_address(mask, d, a, block),
            Op::CopyAsync { to, from, bytes, given } => {
                self.copy_async(mask, to, from, [bytes, given], around.shared)?;
            }
            Op::CommitCopies => self.commit_copies(mask),
            Op::CommitProducts => self.commit_products(),
            Op::WaitForProducts { pending } => self.wait_for_products(mask, pending, around.shared),
            Op::WaitForCopies { pending } => self.wait_for_copies(mask, pending, around.shared)?,
            Op::InitBarrier { barrier, count } => self.init_barrier(mask, barrier, count, around.shared)?,
            Op::Arrive { barrier, bytes } => self.arrive(mask, barrier, bytes, around.shared)?,
            Op::StoreAsync { to, a, barrier } => self.store_async(mask, to, a, barrier, around.shared)?,
            Op::TryWait { d, barrier, parity } => {
                return self.try_wait(mask, d, barrier, parity, around.shared);
            }
            Op::CopyBox(ref copy) => self.copy_box(mask, copy, around)?,
            Op::CopyBytes { to, from, bytes, barrier } => {
                self.copy_bytes(mask, [to, from, barrier], bytes, around.shared)?;
            }
            Op::ClusterArrive => self.arrived |= mask,
            _ => return self.together(op, mask, around),
        }
        Ok(Next::On)
    }

    /// Instructions that threads execute together.
    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    fn together(&mut self, op: &Op, mask: u32, around: &mut Surroundings<'_>) -> Result<Next, String> {
        let members = match *op {
            Op::Shuffle { members, .. }
            | Op::MatchAny { members, .. }
            | Op::VoteAny { members, .. }
            | Op::WarpBarrier { members } => {
                let wanted = self.lanes.words[members as usize][mask.trailing_zeros() as usize];
                if wanted & mask != mask {
                    return Err(format!(
                        "lanes {mask:#x} of which not all are among the members {wanted:#x}"
                    ));
                }
                wanted
            }
            _ => FULL,
        };
        if !self.are_together(members, mask) {
            return Ok(Next::Again(State::Members));
        }
        match *op {
            Op::Shuffle { f, d, valid, a, b, c, .. } => {
                let valid_lanes = self.shuffle(mask, f, [d, a, b, c])?;
                if let Some(valid) = valid {
                    self.lanes.set_predicate(valid, mask, valid_lanes);
                }
            }
            Op::MatchAny { d, a, .. } => self.match_any(mask, d, a),
            Op::VoteAny { d, a, .. } => {
                let is_any = self.lanes.predicates[a as usize] & mask != 0;
                self.lanes.set_predicate(d, mask, if is_any { FULL } else { 0 });
            }
            Op::WarpBarrier { .. } => {}
            Op::Barrier { number, count } => {
                let first = mask.trailing_zeros() as usize;
                let number = self.lanes.words[number as usize][first];
                let count = count.map_or(0, |count| self.lanes.words[count as usize][first]);
                around.shared.changes += 1;
                return Ok(Next::Wait(State::Barrier { number, count }));
            }
            Op::ClusterWait => {
                if mask & !self.arrived != 0 {
                    return Err("barrier.cluster.wait of threads that have not arrived".into());
                }
                self.arrived &= !mask;
                around.shared.changes += 1;
                return Ok(Next::Wait(State::Cluster));
            }
            Op::LoadMatrices { d, address, is_transposed } => {
                self.load_matrices(d, address, is_transposed, around.shared)?;
            }
            Op::StoreMatrices { a, address } => self.store_matrices(a, address, around.shared)?,
            Op::Product { half, d, a, b, c } => self.product(half, d, a, b, c),
            Op::GroupProduct(ref product) => self.group_product(product, around.shared)?,
            _ => return Err("an instruction that the machine does not know".into()),
        }
        Ok(Next::On)
    }

    fn shuffle(&mut self, mask: u32, f: Shuffle, [d, a, b, c]: [u32; 4]) -> Result<u32, String> {
        let [a, b, c] = [a, b, c].map(|slot| self.lanes.words[slot as usize]);
        let mut valid = 0;
        for lane in (0..LANES as u32).filter(|lane| mask >> lane & 1 != 0) {
            let (b, c) = (b[lane as usize] & 31, c[lane as usize]);
            let (clamp, segment) = (c & 31, c >> 8 & 31);
            let last = lane & segment | clamp & !segment;
            let first = lane & segment;
            let (source, is_valid) = match f {
                Shuffle::Butterfly => (lane ^ b, lane ^ b <= last),
                Shuffle::Index => (first | b & !segment, first | b & !segment <= last),
                Shuffle::Up => (lane.wrapping_sub(b), lane.wrapping_sub(b) as i32 >= last as i32),
                Shuffle::Down => (lane + b, lane + b <= last),
            };
            let source = if is_valid { source } else { lane };
            if mask >> source & 1 == 0 {
                return Err(format!("lane {lane} takes from lane {source}, which does not take part"));
            }
            valid |= u32::from(is_valid) << lane;
            self.lanes.words[d as usize][lane as usize] = a[source as usize];
        }
        Ok(valid)
    }

    fn match_any(&mut self, mask: u32, d: u32, a: u32) {
        let a = self.lanes.words[a as usize];
        let taking: Vec<usize> = (0..LANES).filter(|lane| mask >> lane & 1 != 0).collect();
        for &lane in &taking {
            let same = taking.iter().filter(|&&other| a[other] == a[lane]);
            self.lanes.words[d as usize][lane] = same.fold(0, |bits, &other| bits | 1 << other);
        }
    }

    /// A lane's address.
    #[inline(always)]
    pub(super) fn address(&self, address: Address, lane: usize) -> u64 {
        let base = match address.base {
            Base::Word(slot) => u64::from(self.lanes.words[slot as usize][lane]),
            Base::Double(slot) => self.lanes.doubles[slot as usize][lane],
        };
        base.wrapping_add_signed(address.offset)
    }
}
