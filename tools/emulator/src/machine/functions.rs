//! What arithmetic instructions compute: functions of words, double words and predicates.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word1 {
    Move,
    Not,
    Negate,
    CountOnes,
    LeadingZeros,
    Reverse,
    Low16,
    SignOf16,
    NegateFloat,
    Absolute,
    SquareRoot,
    Reciprocal,
    /// 2^x.
    Power,
    /// log2(x).
    Logarithm,
    Saturate,
    FloatOfSigned,
    FloatOfUnsigned,
    SignedOfFloat,
    NearestOfFloat,
    FloatOfHalf,
    HalfOfFloat,
    BfloatOfFloat,
    ReciprocalSquareRoot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word2 {
    Add,
    Subtract,
    Multiply,
    MultiplyHighSigned,
    MultiplyHigh,
    /// Of 16 bits, whose result has no more.
    Add16,
    Subtract16,
    Multiply16,
    MultiplyHigh16,
    DivideSigned,
    Divide,
    RemainderSigned,
    Remainder,
    MinSigned,
    Min,
    MaxSigned,
    Max,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
    ShiftRightSigned,
    AddFloat,
    SubtractFloat,
    MultiplyFloat,
    DivideFloat,
    MinFloat,
    MaxFloat,
    /// The first operand's element in the upper half.
    PairOfHalves,
    PairOfBfloats,
    MaxHalves,
    MaxBfloats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word3 {
    IntegerMultiplyAdd,
    FusedFloat,
    /// Rounded towards minus infinity.
    FusedFloatDown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Double1 {
    Move,
    Not,
    Negate,
    NegateFloat,
    SquareRoot,
    Reciprocal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Double2 {
    Add,
    Subtract,
    Multiply,
    DivideSigned,
    Divide,
    RemainderSigned,
    Remainder,
    MinSigned,
    Min,
    MaxSigned,
    Max,
    And,
    Or,
    Xor,
    AddFloat,
    SubtractFloat,
    MultiplyFloat,
    DivideFloat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Double3 {
    MultiplyAdd,
    MultiplyAddFloat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shift {
    Left,
    Right,
    RightSigned,
}

/// From a word to a double word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Widen {
    Unsigned,
    Signed,
    Float,
    FloatOfSigned,
    FloatOfUnsigned,
}

/// From a double word to a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Narrow {
    Low,
    /// The low half of that.
    Low16,
    Float,
    FloatOfSigned,
    FloatOfUnsigned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    Unsigned,
    Signed,
    /// The low 16 bits, signed.
    Signed16,
    /// False where one is no number.
    Ordered,
    /// True where one is no number.
    Unordered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}
