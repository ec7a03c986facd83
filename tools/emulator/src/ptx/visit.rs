//! The registers that an instruction reads and writes, so that they can be looked at and renamed.

use super::operands::Class;
use crate::machine::{Address, Base, GroupLeft, Instruction, Op};

/// What an instruction does with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Read,
    Written,
    Both,
}

use Class::{Double, Predicate, Word};
use Role::{Both, Read, Written};

/// Calls `f` with every register of an instruction. Of one with a predicate, what is written is read too: it stays where the
/// predicate does not hold.
pub(super) fn visit(instruction: &mut Instruction, f: &mut impl FnMut(Class, Role, &mut u32)) {
    let is_guarded = instruction.guard.is_some();
    if let Some(guard) = &mut instruction.guard {
        f(Predicate, Read, &mut guard.predicate);
    }
    // Reads first: what is written may take the place of what is read for the last time.
    operands(&mut instruction.op, &mut |class, role, slot| {
        if role != Written || is_guarded {
            f(class, Read, slot);
        }
    });
    operands(&mut instruction.op, &mut |class, role, slot| {
        if role != Read {
            f(class, Written, slot);
        }
    });
}

/// Renames every register of an instruction, each once.
pub(super) fn rename(instruction: &mut Instruction, name: &mut impl FnMut(Class, u32) -> u32) {
    if let Some(guard) = &mut instruction.guard {
        guard.predicate = name(Predicate, guard.predicate);
    }
    operands(&mut instruction.op, &mut |class, _, slot| *slot = name(class, *slot));
}

type Visitor<'a> = &'a mut dyn FnMut(Class, Role, &mut u32);

fn address(place: &mut Address, f: Visitor<'_>) {
    match &mut place.base {
        Base::Word(slot) => f(Word, Read, slot),
        Base::Double(slot) => f(Double, Read, slot),
    }
}

fn all(class: Class, role: Role, slots: &mut [u32], f: Visitor<'_>) {
    slots.iter_mut().for_each(|slot| f(class, role, slot));
}

fn operands(op: &mut Op, f: Visitor<'_>) {
    match op {
        Op::Nothing
        | Op::Exit
        | Op::Branch { .. }
        | Op::CommitCopies
        | Op::CommitProducts
        | Op::ClusterArrive
        | Op::ClusterWait => {}
        Op::Word1 { d, a, .. } => (f(Word, Read, a), f(Word, Written, d)).0,
        Op::Word2 { d, a, b, .. }
        | Op::JoinHalves { d, low: a, high: b }
        | Op::MapAddress { d, a, block: b } => {
            f(Word, Read, a);
            f(Word, Read, b);
            f(Word, Written, d);
        }
        Op::Word3 { d, a, b, c, .. } => {
            [a, b, c].into_iter().for_each(|slot| f(Word, Read, slot));
            f(Word, Written, d);
        }
        Op::InsertWord { d, a, b, position, length } => {
            [a, b, position, length].into_iter().for_each(|slot| f(Word, Read, slot));
            f(Word, Written, d);
        }
        Op::Double1 { d, a, .. } => (f(Double, Read, a), f(Double, Written, d)).0,
        Op::Double2 { d, a, b, .. } => {
            [a, b].into_iter().for_each(|slot| f(Double, Read, slot));
            f(Double, Written, d);
        }
        Op::Double3 { d, a, b, c, .. } => {
            [a, b, c].into_iter().for_each(|slot| f(Double, Read, slot));
            f(Double, Written, d);
        }
        Op::InsertDouble { d, a, b, position, length } => {
            [a, b].into_iter().for_each(|slot| f(Double, Read, slot));
            [position, length].into_iter().for_each(|slot| f(Word, Read, slot));
            f(Double, Written, d);
        }
        Op::ShiftDouble { d, a, b, .. } => {
            f(Double, Read, a);
            f(Word, Read, b);
            f(Double, Written, d);
        }
        Op::Widen { d, a, .. } => (f(Word, Read, a), f(Double, Written, d)).0,
        Op::Narrow { d, a, .. } => (f(Double, Read, a), f(Word, Written, d)).0,
        Op::MultiplyWide { d, a, b, .. } | Op::Join { d, low: a, high: b } => {
            [a, b].into_iter().for_each(|slot| f(Word, Read, slot));
            f(Double, Written, d);
        }
        Op::MultiplyAddWide { d, a, b, c, .. } => {
            [a, b].into_iter().for_each(|slot| f(Word, Read, slot));
            f(Double, Read, c);
            f(Double, Written, d);
        }
        Op::Split { low, high, a } => {
            f(Double, Read, a);
            [low, high].into_iter().for_each(|slot| f(Word, Written, slot));
        }
        Op::SplitHalves { low, high, a } => {
            f(Word, Read, a);
            [low, high].into_iter().for_each(|slot| f(Word, Written, slot));
        }
        Op::CompareWords { d, a, b, .. } => {
            [a, b].into_iter().for_each(|slot| f(Word, Read, slot));
            f(Predicate, Written, d);
        }
        Op::CompareDoubles { d, a, b, .. } => {
            [a, b].into_iter().for_each(|slot| f(Double, Read, slot));
            f(Predicate, Written, d);
        }
        Op::SelectWord { d, a, b, predicate } => {
            [a, b].into_iter().for_each(|slot| f(Word, Read, slot));
            f(Predicate, Read, predicate);
            f(Word, Written, d);
        }
        Op::SelectDouble { d, a, b, predicate } => {
            [a, b].into_iter().for_each(|slot| f(Double, Read, slot));
            f(Predicate, Read, predicate);
            f(Double, Written, d);
        }
        Op::Logic { d, a, b, .. } => {
            [a, b].into_iter().for_each(|slot| f(Predicate, Read, slot));
            f(Predicate, Written, d);
        }
        Op::MovePredicate { d, a, .. } => (f(Predicate, Read, a), f(Predicate, Written, d)).0,
        Op::LoadParameter { d, is_double, .. } => f(if *is_double { Double } else { Word }, Written, d),
        Op::Load(access) => {
            address(&mut access.address, f);
            let class = if access.is_double { Double } else { Word };
            all(class, Written, &mut access.slots[..usize::from(access.count)], f);
        }
        Op::Store(access) => {
            address(&mut access.address, f);
            let class = if access.is_double { Double } else { Word };
            all(class, Read, &mut access.slots[..usize::from(access.count)], f);
        }
        Op::AtomicAdd { d, address: place, a, .. } => {
            address(place, f);
            f(Word, Read, a);
            f(Word, Written, d);
        }
        Op::Shuffle { d, valid, a, b, c, members, .. } => {
            [a, b, c, members].into_iter().for_each(|slot| f(Word, Read, slot));
            f(Word, Written, d);
            valid.iter_mut().for_each(|slot| f(Predicate, Written, slot));
        }
        Op::MatchAny { d, a, members } => {
            [a, members].into_iter().for_each(|slot| f(Word, Read, slot));
            f(Word, Written, d);
        }
        Op::VoteAny { d, a, members } => {
            f(Predicate, Read, a);
            f(Word, Read, members);
            f(Predicate, Written, d);
        }
        _ => together(op, f),
    }
}

/// The instructions of blocks, of tensor cores, and of copies.
fn together(op: &mut Op, f: Visitor<'_>) {
    match op {
        Op::Barrier { number, count } => {
            f(Word, Read, number);
            count.iter_mut().for_each(|slot| f(Word, Read, slot));
        }
        Op::WarpBarrier { members } => f(Word, Read, members),
        Op::LoadMatrices { d, address: place, .. } => {
            address(place, f);
            all(Word, Written, d, f);
        }
        Op::StoreMatrices { a, address: place } => {
            address(place, f);
            all(Word, Read, a, f);
        }
        Op::Product { d, a, b, c, .. } => {
            [&mut a[..], b, c].into_iter().for_each(|slots| all(Word, Read, slots, f));
            all(Word, Written, d, f);
        }
        Op::GroupProduct(product) => {
            match &mut product.left {
                GroupLeft::Registers(a) => all(Word, Read, a, f),
                GroupLeft::Shared { descriptor, .. } => f(Double, Read, descriptor),
            }
            f(Double, Read, &mut product.right);
            f(Predicate, Read, &mut product.adds);
            all(Word, Both, &mut product.d, f);
        }
        Op::CopyAsync { to, from, given, .. } => {
            [to, from].into_iter().for_each(|place| address(place, f));
            f(Word, Read, given);
        }
        Op::WaitForCopies { pending } | Op::WaitForProducts { pending } => f(Word, Read, pending),
        Op::InitBarrier { barrier, count } => {
            address(barrier, f);
            f(Word, Read, count);
        }
        Op::Arrive { barrier, bytes } => {
            address(barrier, f);
            bytes.iter_mut().for_each(|slot| f(Word, Read, slot));
        }
        Op::StoreAsync { to, a, barrier } => {
            address(to, f);
            f(Word, Read, a);
            address(barrier, f);
        }
        Op::TryWait { d, barrier, parity } => {
            address(barrier, f);
            f(Word, Read, parity);
            f(Predicate, Written, d);
        }
        Op::CopyBox(copy) => {
            [&mut copy.to, &mut copy.barrier].into_iter().for_each(|place| address(place, f));
            f(Double, Read, &mut copy.map);
            [&mut copy.x, &mut copy.y].into_iter().for_each(|slot| f(Word, Read, slot));
            copy.blocks.iter_mut().for_each(|slot| f(Word, Read, slot));
        }
        Op::CopyBytes { to, from, bytes, barrier } => {
            [to, from, barrier].into_iter().for_each(|place| address(place, f));
            f(Word, Read, bytes);
        }
        _ => unreachable!("`operands` has the others"),
    }
}
