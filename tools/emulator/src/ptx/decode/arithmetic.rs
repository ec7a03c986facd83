//! Arithmetic, comparisons, conversions and moves.

use super::super::operands::{Class, class_of, list};
use super::{Decoder, Statement};
use crate::machine::{
    Compare, Double1, Double2, Double3, Logic, Narrow, Number, Op, Shift, Widen, Word1, Word2, Word3,
};

impl<'a> Decoder<'a> {
    pub(super) fn arithmetic(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        let class = class_of(statement.kind())?;
        match statement.opcode[0] {
            "mov" => self.mov(statement, class),
            "cvt" => self.convert(statement),
            "cvta" => {
                // Generic, global and parameter addresses are the same here; shared ones are told apart by their value.
                let [d, a] = statement.operands()?;
                let (d, a) = (self.names.written(d, Class::Double)?, self.names.double(a)?);
                Ok(match (statement.has("shared"), statement.has("to")) {
                    (false, _) => Op::Double1 { f: Double1::Move, d, a },
                    (true, false) => {
                        let b = self.names.double("0x7f00000000000000")?;
                        Op::Double2 { f: Double2::Or, d, a, b }
                    }
                    (true, true) => {
                        let b = self.names.double("0x00ffffffffffffff")?;
                        Op::Double2 { f: Double2::And, d, a, b }
                    }
                })
            }
            "setp" => self.compare(statement),
            "selp" => {
                let [d, a, b, predicate] = statement.operands()?;
                let (d, predicate) = (self.names.written(d, class)?, self.names.predicate(predicate)?);
                Ok(match class {
                    Class::Double => {
                        Op::SelectDouble { d, a: self.names.double(a)?, b: self.names.double(b)?, predicate }
                    }
                    _ => Op::SelectWord { d, a: self.names.word(a)?, b: self.names.word(b)?, predicate },
                })
            }
            "bfi" => {
                let [a, b, position, length] = self.sources::<4>(statement)?;
                let d = self.names.written(statement.operands[0], class)?;
                let [position, length] = [self.names.word(position)?, self.names.word(length)?];
                Ok(match class {
                    Class::Double => Op::InsertDouble {
                        d,
                        a: self.names.double(a)?,
                        b: self.names.double(b)?,
                        position,
                        length,
                    },
                    _ => {
                        Op::InsertWord { d, a: self.names.word(a)?, b: self.names.word(b)?, position, length }
                    }
                })
            }
            // The product of two numbers of 16 bits is a word, which theirs is, too.
            "mul" | "mad" if statement.has("wide") && statement.kind() == "u16" => self.words(statement),
            "mul" | "mad" if statement.has("wide") => self.multiply_wide(statement),
            _ => match class {
                Class::Predicate => self.logic(statement),
                Class::Word => self.words(statement),
                Class::Double => self.doubles(statement),
            },
        }
    }

    /// The operands after the first, of which there must be N.
    fn sources<const N: usize>(&self, statement: &Statement<'a>) -> Result<[&'a str; N], String> {
        statement.operands.get(1..).and_then(|rest| rest.try_into().ok()).ok_or_else(|| statement.unknown())
    }

    fn mov(&mut self, statement: &Statement<'a>, class: Class) -> Result<Op, String> {
        let [d, a] = statement.operands()?;
        let is_16 = statement.kind().ends_with("16");
        if d.starts_with('{') {
            let [low, high] = list(d).try_into().map_err(|_| statement.unknown())?;
            let [low, high] = [self.names.written(low, Class::Word)?, self.names.written(high, Class::Word)?];
            return Ok(match class {
                Class::Double => Op::Split { low, high, a: self.names.double(a)? },
                _ => Op::SplitHalves { low, high, a: self.names.word(a)? },
            });
        }
        let d = self.names.written(d, class)?;
        if a.starts_with('{') {
            let [low, high] = self.names.words(a)?;
            return Ok(match class {
                Class::Double => Op::Join { d, low, high },
                _ => Op::JoinHalves { d, low, high },
            });
        }
        Ok(match class {
            Class::Word => {
                Op::Word1 { f: if is_16 { Word1::Low16 } else { Word1::Move }, d, a: self.names.word(a)? }
            }
            Class::Double => Op::Double1 { f: Double1::Move, d, a: self.names.double(a)? },
            Class::Predicate => Op::MovePredicate { d, a: self.names.predicate(a)?, is_negated: false },
        })
    }

    fn convert(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        let parts = &statement.opcode;
        let (to, from) = (parts[parts.len() - 2], parts[parts.len() - 1]);
        let rounds = |mode: &str| statement.has(mode);
        if matches!(to, "bf16x2" | "f16x2") {
            let [a, b] = self.sources::<2>(statement)?;
            let f = if to == "f16x2" { Word2::PairOfHalves } else { Word2::PairOfBfloats };
            let d = self.names.written(statement.operands[0], Class::Word)?;
            return Ok(Op::Word2 { f, d, a: self.names.word(a)?, b: self.names.word(b)? });
        }
        let [d, a] = statement.operands()?;
        let d = self.names.written(d, class_of(to)?)?;
        Ok(match (class_of(to)?, class_of(from)?) {
            (Class::Double, Class::Word) => {
                let f = match (to, from) {
                    (_, "u32" | "b32" | "u16") if to != "f64" => Widen::Unsigned,
                    (_, "s32") if to != "f64" => Widen::Signed,
                    ("f64", "f32") => Widen::Float,
                    ("f64", "s32") => Widen::FloatOfSigned,
                    ("f64", "u32") => Widen::FloatOfUnsigned,
                    _ => return Err(statement.unknown()),
                };
                Op::Widen { f, d, a: self.names.word(a)? }
            }
            (Class::Word, Class::Double) => {
                let f = match (to, from) {
                    ("u32" | "s32" | "b32", "u64" | "s64" | "b64") => Narrow::Low,
                    ("u16" | "s16" | "b16", "u64" | "s64" | "b64") => Narrow::Low16,
                    ("f32", "f64") if rounds("rn") => Narrow::Float,
                    ("f32", "s64") if rounds("rn") => Narrow::FloatOfSigned,
                    ("f32", "u64") if rounds("rn") => Narrow::FloatOfUnsigned,
                    _ => return Err(statement.unknown()),
                };
                Op::Narrow { f, d, a: self.names.double(a)? }
            }
            (Class::Double, Class::Double) if !to.starts_with('f') && !from.starts_with('f') => {
                Op::Double1 { f: Double1::Move, d, a: self.names.double(a)? }
            }
            (Class::Word, Class::Word) => {
                let f = match (to, from) {
                    ("f32", "f16") => Word1::FloatOfHalf,
                    ("f16", "f32") if rounds("rn") => Word1::HalfOfFloat,
                    ("bf16", "f32") if rounds("rn") => Word1::BfloatOfFloat,
                    ("f32", "s32") if rounds("rn") => Word1::FloatOfSigned,
                    ("f32", "u32") if rounds("rn") => Word1::FloatOfUnsigned,
                    ("f32", "f32") if rounds("sat") => Word1::Saturate,
                    ("f32", "f32") if rounds("rni") => Word1::NearestOfFloat,
                    ("s32", "f32") if rounds("rzi") => Word1::SignedOfFloat,
                    ("u16" | "s16", "u32" | "s32" | "u16" | "s16") | ("u32" | "s32", "u16") => Word1::Low16,
                    ("s32" | "u32", "s16") => Word1::SignOf16,
                    _ => return Err(statement.unknown()),
                };
                Op::Word1 { f, d, a: self.names.word(a)? }
            }
            _ => return Err(statement.unknown()),
        })
    }

    fn compare(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        let [d, a, b] = statement.operands()?;
        let (name, kind) = (statement.opcode[1], statement.kind());
        let is_float = kind.starts_with('f');
        let plain = match name {
            "lo" => "lt",
            "ls" => "le",
            "hi" => "gt",
            "hs" => "ge",
            name if is_float => name.strip_suffix('u').unwrap_or(name),
            name => name,
        };
        let f = match plain {
            "eq" => Compare::Equal,
            "ne" => Compare::NotEqual,
            "lt" => Compare::Less,
            "le" => Compare::LessEqual,
            "gt" => Compare::Greater,
            "ge" => Compare::GreaterEqual,
            _ => return Err(statement.unknown()),
        };
        let number = match kind {
            "f32" | "f64" if plain != name => Number::Unordered,
            "f32" | "f64" => Number::Ordered,
            "s16" => Number::Signed16,
            "s32" | "s64" => Number::Signed,
            "u16" | "b16" | "u32" | "b32" | "u64" | "b64" => Number::Unsigned,
            _ => return Err(statement.unknown()),
        };
        let d = self.names.written(d, Class::Predicate)?;
        Ok(match class_of(kind)? {
            Class::Double => {
                Op::CompareDoubles { f, number, d, a: self.names.double(a)?, b: self.names.double(b)? }
            }
            _ => Op::CompareWords { f, number, d, a: self.names.word(a)?, b: self.names.word(b)? },
        })
    }

    fn multiply_wide(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        let is_signed = match statement.kind() {
            "s32" => true,
            "u32" => false,
            _ => return Err(statement.unknown()),
        };
        let operands = &statement.operands;
        let d = self.names.written(operands.first().ok_or_else(|| statement.unknown())?, Class::Double)?;
        Ok(match operands.as_slice() {
            [_, a, b] => Op::MultiplyWide { is_signed, d, a: self.names.word(a)?, b: self.names.word(b)? },
            [_, a, b, c] => Op::MultiplyAddWide {
                is_signed,
                d,
                a: self.names.word(a)?,
                b: self.names.word(b)?,
                c: self.names.double(c)?,
            },
            _ => return Err(statement.unknown()),
        })
    }

    fn logic(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        let d = self.names.written(statement.operands.first().ok_or("no operands")?, Class::Predicate)?;
        let f = match statement.opcode[0] {
            "not" => {
                let [a] = self.sources::<1>(statement)?;
                return Ok(Op::MovePredicate { d, a: self.names.predicate(a)?, is_negated: true });
            }
            "and" => Logic::And,
            "or" => Logic::Or,
            "xor" => Logic::Xor,
            _ => return Err(statement.unknown()),
        };
        let [a, b] = self.sources::<2>(statement)?;
        Ok(Op::Logic { f, d, a: self.names.predicate(a)?, b: self.names.predicate(b)? })
    }

    fn words(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        let kind = statement.kind();
        let name = statement.opcode[0];
        // 16-bit registers hold 16 bits: only what keeps the upper ones zero, or is cut afterwards, is known.
        let is_16 = kind.ends_with("16") && !kind.ends_with("x2");
        let keeps_16 = match name {
            "and" | "or" | "xor" => true,
            "shr" => matches!(kind, "u16" | "b16"),
            "add" | "sub" => matches!(kind, "u16" | "s16"),
            "mul" => kind == "u16" || kind == "s16" && statement.has("lo"),
            "mad" => kind == "u16" && statement.has("wide"),
            _ => false,
        };
        if is_16 && !keeps_16 {
            return Err(statement.unknown());
        }
        let sources: Vec<&str> = statement.operands.get(1..).unwrap_or_default().to_vec();
        let d = self.names.written(statement.operands.first().ok_or("no operands")?, Class::Word)?;
        let (is_float, is_signed) = (kind == "f32", kind == "s32");
        let slots = sources.iter().map(|name| self.names.word(name)).collect::<Result<Vec<_>, _>>()?;
        match *slots.as_slice() {
            [a] => {
                let f = match (name, is_float) {
                    ("not", false) => Word1::Not,
                    ("neg", false) => Word1::Negate,
                    ("neg", true) => Word1::NegateFloat,
                    ("abs", true) => Word1::Absolute,
                    ("popc", _) => Word1::CountOnes,
                    ("clz", _) => Word1::LeadingZeros,
                    ("brev", _) => Word1::Reverse,
                    ("sqrt", true) => Word1::SquareRoot,
                    ("rsqrt", true) => Word1::ReciprocalSquareRoot,
                    ("rcp", true) => Word1::Reciprocal,
                    ("ex2", true) => Word1::Power,
                    ("lg2", true) => Word1::Logarithm,
                    _ => return Err(statement.unknown()),
                };
                Ok(Op::Word1 { f, d, a })
            }
            [a, b] => {
                let high = statement.has("hi");
                let f = match (name, is_float, is_signed) {
                    ("add", false, _) if is_16 => Word2::Add16,
                    ("sub", false, _) if is_16 => Word2::Subtract16,
                    ("add", false, _) => Word2::Add,
                    ("sub", false, _) => Word2::Subtract,
                    ("mul", false, _) if is_16 && high => Word2::MultiplyHigh16,
                    ("mul", false, _) if is_16 && statement.has("lo") => Word2::Multiply16,
                    ("mul", false, true) if high => Word2::MultiplyHighSigned,
                    ("mul", false, _) if high => Word2::MultiplyHigh,
                    ("mul", false, _) => Word2::Multiply,
                    ("div", false, true) => Word2::DivideSigned,
                    ("div", false, _) => Word2::Divide,
                    ("rem", _, true) => Word2::RemainderSigned,
                    ("rem", _, _) => Word2::Remainder,
                    ("min", false, true) => Word2::MinSigned,
                    ("min", false, _) => Word2::Min,
                    ("max", _, _) if kind == "f16x2" => Word2::MaxHalves,
                    ("max", _, _) if kind == "bf16x2" => Word2::MaxBfloats,
                    ("max", false, true) => Word2::MaxSigned,
                    ("max", false, _) => Word2::Max,
                    ("and", ..) => Word2::And,
                    ("or", ..) => Word2::Or,
                    ("xor", ..) => Word2::Xor,
                    ("shl", ..) => Word2::ShiftLeft,
                    ("shr", _, true) => Word2::ShiftRightSigned,
                    ("shr", ..) => Word2::ShiftRight,
                    ("add", true, _) => Word2::AddFloat,
                    ("sub", true, _) => Word2::SubtractFloat,
                    ("mul", true, _) => Word2::MultiplyFloat,
                    ("div", true, _) => Word2::DivideFloat,
                    ("min", true, _) => Word2::MinFloat,
                    ("max", true, _) => Word2::MaxFloat,
                    _ => return Err(statement.unknown()),
                };
                Ok(Op::Word2 { f, d, a, b })
            }
            [a, b, c] => {
                let f = match (name, is_float) {
                    ("mad", false) => Word3::IntegerMultiplyAdd,
                    ("fma", true) if statement.has("rm") => Word3::FusedFloatDown,
                    ("fma", true) if statement.has("rn") => Word3::FusedFloat,
                    _ => return Err(statement.unknown()),
                };
                Ok(Op::Word3 { f, d, a, b, c })
            }
            _ => Err(statement.unknown()),
        }
    }

    fn doubles(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        let (name, kind) = (statement.opcode[0], statement.kind());
        let (is_float, is_signed) = (kind == "f64", kind == "s64");
        let d = self.names.written(statement.operands.first().ok_or("no operands")?, Class::Double)?;
        if matches!(name, "shl" | "shr") {
            let [a, b] = self.sources::<2>(statement)?;
            let f = match (name, is_signed) {
                ("shl", _) => Shift::Left,
                (_, true) => Shift::RightSigned,
                (_, false) => Shift::Right,
            };
            return Ok(Op::ShiftDouble { f, d, a: self.names.double(a)?, b: self.names.word(b)? });
        }
        let sources: Vec<&str> = statement.operands.get(1..).unwrap_or_default().to_vec();
        let slots = sources.iter().map(|name| self.names.double(name)).collect::<Result<Vec<_>, _>>()?;
        match *slots.as_slice() {
            [a] => {
                let f = match (name, is_float) {
                    ("not", false) => Double1::Not,
                    ("neg", false) => Double1::Negate,
                    ("neg", true) => Double1::NegateFloat,
                    ("sqrt", true) => Double1::SquareRoot,
                    ("rcp", true) => Double1::Reciprocal,
                    _ => return Err(statement.unknown()),
                };
                Ok(Op::Double1 { f, d, a })
            }
            [a, b] => {
                let f = match (name, is_float, is_signed) {
                    ("add", false, _) => Double2::Add,
                    ("sub", false, _) => Double2::Subtract,
                    ("mul", false, _) if statement.has("lo") => Double2::Multiply,
                    ("div", false, true) => Double2::DivideSigned,
                    ("div", false, _) => Double2::Divide,
                    ("rem", _, true) => Double2::RemainderSigned,
                    ("rem", _, _) => Double2::Remainder,
                    ("min", false, true) => Double2::MinSigned,
                    ("min", false, _) => Double2::Min,
                    ("max", false, true) => Double2::MaxSigned,
                    ("max", false, _) => Double2::Max,
                    ("and", ..) => Double2::And,
                    ("or", ..) => Double2::Or,
                    ("xor", ..) => Double2::Xor,
                    ("add", true, _) => Double2::AddFloat,
                    ("sub", true, _) => Double2::SubtractFloat,
                    ("mul", true, _) => Double2::MultiplyFloat,
                    ("div", true, _) => Double2::DivideFloat,
                    _ => return Err(statement.unknown()),
                };
                Ok(Op::Double2 { f, d, a, b })
            }
            [a, b, c] => {
                let f = match (name, is_float) {
                    ("mad", false) => Double3::MultiplyAdd,
                    ("fma", true) if statement.has("rn") => Double3::MultiplyAddFloat,
                    _ => return Err(statement.unknown()),
                };
                Ok(Op::Double3 { f, d, a, b, c })
            }
            _ => Err(statement.unknown()),
        }
    }
}
