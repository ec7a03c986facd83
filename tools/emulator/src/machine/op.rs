//! Instructions as they are executed: decoded, their operands slots of a warp's registers. Constants and what is known of a
//! thread when it starts are registers too, filled in before its first instruction.

use super::functions::{
    Compare, Double1, Double2, Double3, Logic, Narrow, Number, Shift, Widen, Word1, Word2, Word3,
};

/// A register of its class: a word (16 and 32 bits), a double word (64 bits) or a predicate.
pub(crate) type Slot = u32;

/// What a register holds before the first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Initial {
    Constant(u64),
    Special(Special),
    /// The address of a byte of the block's shared memory.
    Shared(u32),
    /// The address of a byte of the kernel's parameters.
    Parameter(u32),
}

/// Special registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Thread(usize),
    NumThreads(usize),
    Block(usize),
    NumBlocks(usize),
    Lane,
    Warp,
    ClusterRank,
    ClusterBlocks,
}

/// An instruction, and the predicate without which a thread passes over it.
#[derive(Debug)]
pub(crate) struct Instruction {
    pub(crate) guard: Option<Guard>,
    pub(crate) op: Op,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    pub(crate) predicate: Slot,
    pub(crate) is_negated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Shared,
    /// Global or shared, by the address.
    Generic,
}

/// Where a memory access begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) base: Base,
    pub(crate) offset: i64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Base {
    Word(Slot),
    Double(Slot),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Shuffle {
    Butterfly,
    Index,
    Up,
    Down,
}

/// The element type of a product's operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    F16,
    Bf16,
}

/// A memory access: `count` elements of `bytes` each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) space: Space,
    pub(crate) bytes: u8,
    pub(crate) count: u8,
    pub(crate) is_signed: bool,
    /// Whether the registers are double words, whatever is loaded.
    pub(crate) is_double: bool,
    pub(crate) slots: [Slot; 4],
    pub(crate) address: Address,
}

/// What the left operand of a warpgroup's product is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GroupLeft {
    Registers([Slot; 4]),
    Shared { descriptor: Slot, is_across: bool },
}

/// wgmma: d (64, n) = a (64, 16) b (16, n), plus d where `adds`.
#[derive(Debug)]
pub(crate) struct GroupProduct {
    pub(crate) half: Half,
    pub(crate) d: Vec<Slot>,
    pub(crate) left: GroupLeft,
    pub(crate) right: Slot,
    pub(crate) is_right_across: bool,
    pub(crate) adds: Slot,
}

/// A copy of a box by the tensor memory accelerator.
#[derive(Debug)]
pub(crate) struct BoxCopy {
    pub(crate) to: Address,
    pub(crate) map: Slot,
    pub(crate) x: Slot,
    pub(crate) y: Slot,
    pub(crate) barrier: Address,
    /// Bits of the blocks that get it; none: this block alone.
    pub(crate) blocks: Option<Slot>,
}

#[derive(Debug)]
pub(crate) enum Op {
    Nothing,
    Word1 {
        f: Word1,
        d: Slot,
        a: Slot,
    },
    Word2 {
        f: Word2,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Word3 {
        f: Word3,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    InsertWord {
        d: Slot,
        a: Slot,
        b: Slot,
        position: Slot,
        length: Slot,
    },
    Double1 {
        f: Double1,
        d: Slot,
        a: Slot,
    },
    Double2 {
        f: Double2,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Double3 {
        f: Double3,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    InsertDouble {
        d: Slot,
        a: Slot,
        b: Slot,
        position: Slot,
        length: Slot,
    },
    ShiftDouble {
        f: Shift,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Widen {
        f: Widen,
        d: Slot,
        a: Slot,
    },
    Narrow {
        f: Narrow,
        d: Slot,
        a: Slot,
    },
    MultiplyWide {
        is_signed: bool,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    MultiplyAddWide {
        is_signed: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    Join {
        d: Slot,
        low: Slot,
        high: Slot,
    },
    Split {
        low: Slot,
        high: Slot,
        a: Slot,
    },
    JoinHalves {
        d: Slot,
        low: Slot,
        high: Slot,
    },
    SplitHalves {
        low: Slot,
        high: Slot,
        a: Slot,
    },
    CompareWords {
        f: Compare,
        number: Number,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    CompareDoubles {
        f: Compare,
        number: Number,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    SelectWord {
        d: Slot,
        a: Slot,
        b: Slot,
        predicate: Slot,
    },
    SelectDouble {
        d: Slot,
        a: Slot,
        b: Slot,
        predicate: Slot,
    },
    Logic {
        f: Logic,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    MovePredicate {
        d: Slot,
        a: Slot,
        is_negated: bool,
    },
    LoadParameter {
        d: Slot,
        bytes: u8,
        is_double: bool,
        offset: u32,
    },
    Load(Box<Access>),
    Store(Box<Access>),
    /// atom.add of a u32 in shared or global memory.
    AtomicAdd {
        space: Space,
        d: Slot,
        address: Address,
        a: Slot,
    },
    Shuffle {
        f: Shuffle,
        d: Slot,
        valid: Option<Slot>,
        a: Slot,
        b: Slot,
        c: Slot,
        members: Slot,
    },
    /// match.any: the lanes whose word is the same.
    MatchAny {
        d: Slot,
        a: Slot,
        members: Slot,
    },
    /// vote.any: whether the predicate is set in any lane.
    VoteAny {
        d: Slot,
        a: Slot,
        members: Slot,
    },
    /// Where to go on, as the index of an instruction.
    Branch {
        target: u32,
    },
    Exit,
    Barrier {
        number: Slot,
        count: Option<Slot>,
    },
    WarpBarrier {
        members: Slot,
    },
    LoadMatrices {
        d: [Slot; 4],
        address: Address,
        is_transposed: bool,
    },
    StoreMatrices {
        a: [Slot; 4],
        address: Address,
    },
    Product {
        half: Half,
        d: [Slot; 4],
        a: [Slot; 4],
        b: [Slot; 2],
        c: [Slot; 4],
    },
    GroupProduct(Box<GroupProduct>),
    CommitProducts,
    WaitForProducts {
        pending: Slot,
    },
    CopyAsync {
        to: Address,
        from: Address,
        bytes: u32,
        given: Slot,
    },
    CommitCopies,
    WaitForCopies {
        pending: Slot,
    },
    InitBarrier {
        barrier: Address,
        count: Slot,
    },
    /// mbarrier.arrive, with bytes that are to come.
    Arrive {
        barrier: Address,
        bytes: Option<Slot>,
    },
    /// mbarrier.try_wait.parity.
    TryWait {
        d: Slot,
        barrier: Address,
        parity: Slot,
    },
    /// st.async: a word, and the news of its four bytes for a barrier.
    StoreAsync {
        to: Address,
        a: Slot,
        barrier: Address,
    },
    /// mapa: the same address in another block of the cluster.
    MapAddress {
        d: Slot,
        a: Slot,
        block: Slot,
    },
    ClusterArrive,
    ClusterWait,
    CopyBox(Box<BoxCopy>),
    CopyBytes {
        to: Address,
        from: Address,
        bytes: Slot,
        barrier: Address,
    },
}
