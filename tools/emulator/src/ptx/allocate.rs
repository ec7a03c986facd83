//! Registers: a text names a new one for nearly every value, tens of thousands in a large kernel, of which few are in use at once.
//!
//! Values whose ranges do not overlap share a register, so that a warp's fit a cache. Ranges are hulls of where a value is live,
//! and registers are given out along the code, first come first served: Poletto and Sarkar, "Linear scan register allocation",
//! 1999. What threads of a warp do apart changes nothing, since every lane has a column of its own.

use super::operands::Class;
use super::visit::{Role, rename, visit};
use super::{Kernel, Registers};
use crate::machine::{Initial, Instruction, Op};

/// A run of instructions that only the last leaves.
struct Block {
    begin: usize,
    end: usize,
    successors: Vec<usize>,
}

/// A set of registers.
#[derive(Clone, PartialEq, Eq)]
struct Set(Vec<u64>);

impl Set {
    fn new(len: u32) -> Self {
        Set(vec![0; (len as usize).div_ceil(64)])
    }

    fn has(&self, i: u32) -> bool {
        self.0[i as usize / 64] >> (i % 64) & 1 != 0
    }

    fn add(&mut self, i: u32) {
        self.0[i as usize / 64] |= 1 << (i % 64);
    }

    fn members(&self) -> impl Iterator<Item = u32> {
        self.0.iter().enumerate().flat_map(|(i, &word)| {
            (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| 64 * i as u32 + bit)
        })
    }
}

/// Gives a kernel's values their registers.
pub(super) fn allocate(kernel: &mut Kernel) {
    let blocks = blocks(&kernel.code);
    let Registers { num_words, num_doubles, num_predicates, .. } = kernel.registers;
    let fixed = |list: &[(u32, Initial)]| list.iter().map(|&(slot, _)| slot).collect::<Vec<_>>();
    let words =
        Names::new(Class::Word, num_words, &fixed(&kernel.registers.words), &mut kernel.code, &blocks);
    let doubles =
        Names::new(Class::Double, num_doubles, &fixed(&kernel.registers.doubles), &mut kernel.code, &blocks);
    let predicates: Vec<u32> = kernel.registers.predicates.iter().map(|&(slot, _)| slot).collect();
    let predicates = Names::new(Class::Predicate, num_predicates, &predicates, &mut kernel.code, &blocks);
    for instruction in &mut kernel.code {
        rename(instruction, &mut |class, slot| match class {
            Class::Word => words.of[slot as usize],
            Class::Double => doubles.of[slot as usize],
            Class::Predicate => predicates.of[slot as usize],
        });
    }
    let registers = &mut kernel.registers;
    registers.words.iter_mut().for_each(|(slot, _)| *slot = words.of[*slot as usize]);
    registers.doubles.iter_mut().for_each(|(slot, _)| *slot = doubles.of[*slot as usize]);
    registers.predicates.iter_mut().for_each(|(slot, _)| *slot = predicates.of[*slot as usize]);
    (registers.num_words, registers.num_doubles, registers.num_predicates) =
        (words.count, doubles.count, predicates.count);
}

fn blocks(code: &[Instruction]) -> Vec<Block> {
    let mut begins = vec![false; code.len() + 1];
    begins[0] = true;
    for (at, instruction) in code.iter().enumerate() {
        match instruction.op {
            Op::Branch { target } => (begins[target as usize], begins[at + 1]) = (true, true),
            Op::Exit => begins[at + 1] = true,
            _ => {}
        }
    }
    let starts: Vec<usize> = (0..code.len()).filter(|&at| begins[at]).collect();
    let block_at = |at: usize| starts.partition_point(|&start| start <= at) - 1;
    let ends = starts.iter().skip(1).copied().chain([code.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(&begin, end)| {
            let last = &code[end - 1];
            let (target, goes_on) = match last.op {
                Op::Branch { target } => (Some(target as usize), last.guard.is_some()),
                Op::Exit => (None, last.guard.is_some()),
                _ => (None, true),
            };
            let next = (goes_on && end < code.len()).then_some(end);
            Block { begin, end, successors: target.into_iter().chain(next).map(block_at).collect() }
        })
        .collect()
}

/// The new names of a class's registers.
struct Names {
    of: Vec<u32>,
    count: u32,
}

impl Names {
    fn new(class: Class, len: u32, fixed: &[u32], code: &mut [Instruction], blocks: &[Block]) -> Self {
        let ranges = ranges(class, len, code, blocks);
        let (mut of, mut count) = (vec![0; len as usize], 0);
        let mut is_fixed = vec![false; len as usize];
        for &slot in fixed {
            (of[slot as usize], is_fixed[slot as usize]) = (count, true);
            count += 1;
        }
        let mut order: Vec<u32> = (0..len).filter(|&slot| !is_fixed[slot as usize]).collect();
        order.retain(|&slot| ranges[slot as usize].0 <= ranges[slot as usize].1);
        order.sort_by_key(|&slot| ranges[slot as usize].0);
        let mut free: Vec<u32> = Vec::new();
        let mut taken = std::collections::BinaryHeap::new();
        for slot in order {
            let (begin, end) = ranges[slot as usize];
            while let Some(&std::cmp::Reverse((past, register))) = taken.peek()
                && past < begin
            {
                taken.pop();
                free.push(register);
            }
            let register = free.pop().unwrap_or_else(|| {
                count += 1;
                count - 1
            });
            of[slot as usize] = register;
            taken.push(std::cmp::Reverse((end, register)));
        }
        Names { of, count: count.max(1) }
    }
}

/// For each register the first and last instruction around which it is live; the first above the last if it is never met.
fn ranges(class: Class, len: u32, code: &mut [Instruction], blocks: &[Block]) -> Vec<(usize, usize)> {
    let mut ranges = vec![(usize::MAX, 0); len as usize];
    // What a block reads before it writes, and what it writes.
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for block in blocks {
        let (mut read, mut written) = (Set::new(len), Set::new(len));
        for (at, instruction) in (block.begin..).zip(&mut code[block.begin..block.end]) {
            visit(instruction, &mut |met, role, slot| {
                if met != class {
                    return;
                }
                let (first, last) = &mut ranges[*slot as usize];
                (*first, *last) = ((*first).min(at), (*last).max(at));
                match role {
                    Role::Read if !written.has(*slot) => read.add(*slot),
                    Role::Read => {}
                    _ => written.add(*slot),
                }
            });
        }
        reads.push(read);
        writes.push(written);
    }
    // What is live where a block begins: what it reads, and what the blocks after it need that it does not write.
    let mut live = reads.clone();
    let mut is_changed = true;
    while is_changed {
        is_changed = false;
        for i in (0..blocks.len()).rev() {
            for &next in &blocks[i].successors {
                for word in 0..live[i].0.len() {
                    let needed = live[next].0[word] & !writes[i].0[word];
                    is_changed |= needed & !live[i].0[word] != 0;
                    live[i].0[word] |= needed;
                }
            }
        }
    }
    for (i, block) in blocks.iter().enumerate() {
        for slot in live[i].members() {
            ranges[slot as usize].0 = ranges[slot as usize].0.min(block.begin);
        }
        for slot in block.successors.iter().flat_map(|&next| live[next].members()) {
            let (first, last) = &mut ranges[slot as usize];
            (*first, *last) = ((*first).min(block.end - 1), (*last).max(block.end - 1));
        }
    }
    ranges
}
