//! Tensor cores, asynchronous copies, and the barriers that these report to.

use super::super::operands::Class;
use super::{Decoder, Statement};
use crate::machine::{BoxCopy, GroupLeft, GroupProduct, Half, Op};

impl<'a> Decoder<'a> {
    pub(super) fn tensor(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        match (statement.opcode[0], statement.opcode.get(1).copied().unwrap_or_default()) {
            ("mma", _) => self.product(statement),
            ("wgmma", "mma_async") => self.group_product(statement),
            // Products are done when they are begun, so nothing is left to be ordered.
            ("wgmma", "fence") => Ok(Op::Nothing),
            ("wgmma", "commit_group") => Ok(Op::CommitProducts),
            ("wgmma", "wait_group") => {
                let [pending] = statement.operands()?;
                Ok(Op::WaitForProducts { pending: self.names.word(pending)? })
            }
            ("ldmatrix", _) if statement.has("x4") && statement.has("m8n8") => {
                let [d, address] = statement.operands()?;
                Ok(Op::LoadMatrices {
                    d: self.names.words(d)?,
                    address: self.names.address(address)?,
                    is_transposed: statement.has("trans"),
                })
            }
            ("stmatrix", _) if statement.has("x4") && !statement.has("trans") => {
                let [address, a] = statement.operands()?;
                Ok(Op::StoreMatrices { a: self.names.words(a)?, address: self.names.address(address)? })
            }
            ("cp", "async") => self.copy(statement),
            ("mbarrier", _) => self.barrier(statement),
            ("mapa", "shared::cluster") if statement.kind() == "u32" => {
                let [d, a, block] = statement.operands()?;
                Ok(Op::MapAddress {
                    d: self.names.written(d, Class::Word)?,
                    a: self.names.word(a)?,
                    block: self.names.word(block)?,
                })
            }
            _ => Err(statement.unknown()),
        }
    }

    fn half_of(statement: &Statement<'_>) -> Result<Half, String> {
        match (statement.has("bf16"), statement.has("f16")) {
            (true, false) => Ok(Half::Bf16),
            (false, true) => Ok(Half::F16),
            _ => Err(statement.unknown()),
        }
    }

    fn product(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        if !statement.has("m16n8k16") || !statement.has("row") || !statement.has("col") {
            return Err(statement.unknown());
        }
        let [d, a, b, c] = statement.operands()?;
        Ok(Op::Product {
            half: Self::half_of(statement)?,
            d: self.names.words(d)?,
            a: self.names.words(a)?,
            b: self.names.words(b)?,
            c: self.names.words(c)?,
        })
    }

    fn group_product(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        let shape = statement
            .opcode
            .iter()
            .find(|part| part.starts_with("m64n"))
            .ok_or_else(|| statement.unknown())?;
        let cols =
            shape.trim_start_matches("m64n").strip_suffix("k16").and_then(|cols| cols.parse::<usize>().ok());
        let cols = cols.ok_or_else(|| statement.unknown())?;
        let operands = &statement.operands;
        let [d, a, b, adds, flags @ ..] = operands.as_slice() else { return Err(statement.unknown()) };
        let is_in_registers = a.starts_with('{');
        let (signs, across) = flags.split_at_checked(2).ok_or_else(|| statement.unknown())?;
        let wanted = if is_in_registers { 1 } else { 2 };
        if signs != ["1", "1"] || across.len() != wanted {
            return Err(statement.unknown());
        }
        let left = if is_in_registers {
            GroupLeft::Registers(self.names.words(a)?)
        } else {
            GroupLeft::Shared { descriptor: self.names.double(a)?, is_across: across[0] == "1" }
        };
        let d = self.names.vector(d)?;
        if d.len() != cols / 2 {
            return Err(statement.unknown());
        }
        Ok(Op::GroupProduct(Box::new(GroupProduct {
            half: Self::half_of(statement)?,
            d,
            left,
            right: self.names.double(b)?,
            is_right_across: across[wanted - 1] == "1",
            adds: self.names.predicate(adds)?,
        })))
    }

    fn copy(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        match statement.opcode[2] {
            "commit_group" => Ok(Op::CommitCopies),
            "wait_group" => {
                let [pending] = statement.operands()?;
                Ok(Op::WaitForCopies { pending: self.names.word(pending)? })
            }
            "ca" | "cg" => {
                let [to, from, bytes, given] = match statement.operands.as_slice() {
                    [to, from, bytes] => [*to, *from, *bytes, *bytes],
                    [to, from, bytes, given] => [*to, *from, *bytes, *given],
                    _ => return Err(statement.unknown()),
                };
                Ok(Op::CopyAsync {
                    to: self.names.address(to)?,
                    from: self.names.address(from)?,
                    bytes: bytes.parse().map_err(|_| statement.unknown())?,
                    given: self.names.word(given)?,
                })
            }
            "bulk" if statement.has("tensor") && statement.has("2d") => self.copy_box(statement),
            "bulk" if statement.has("shared::cluster") => {
                let [to, from, bytes, barrier] = statement.operands()?;
                Ok(Op::CopyBytes {
                    to: self.names.address(to)?,
                    from: self.names.address(from)?,
                    bytes: self.names.word(bytes)?,
                    barrier: self.names.address(barrier)?,
                })
            }
            _ => Err(statement.unknown()),
        }
    }

    fn copy_box(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        let (to, from, barrier, blocks) = match statement.operands.as_slice() {
            [to, from, barrier] => (*to, *from, *barrier, None),
            [to, from, barrier, blocks] => (*to, *from, *barrier, Some(*blocks)),
            _ => return Err(statement.unknown()),
        };
        // `[map, {x, y}]`
        let inner = from.trim_start_matches('[').trim_end_matches(']');
        let (map, corner) = inner.split_once(',').ok_or_else(|| statement.unknown())?;
        let [x, y] = self.names.words(corner)?;
        Ok(Op::CopyBox(Box::new(BoxCopy {
            to: self.names.address(to)?,
            map: self.names.double(map.trim())?,
            x,
            y,
            barrier: self.names.address(barrier)?,
            blocks: blocks.map(|blocks| self.names.word(blocks)).transpose()?,
        })))
    }

    fn barrier(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        match (statement.opcode[1], statement.operands.as_slice()) {
            ("init", [barrier, count]) => {
                Ok(Op::InitBarrier { barrier: self.names.address(barrier)?, count: self.names.word(count)? })
            }
            ("arrive", ["_", barrier]) => {
                Ok(Op::Arrive { barrier: self.names.address(barrier)?, bytes: None })
            }
            ("arrive", ["_", barrier, bytes]) if statement.has("expect_tx") => {
                Ok(Op::Arrive { barrier: self.names.address(barrier)?, bytes: Some(self.names.word(bytes)?) })
            }
            ("try_wait", [d, barrier, parity]) if statement.has("parity") => Ok(Op::TryWait {
                d: self.names.written(d, Class::Predicate)?,
                barrier: self.names.address(barrier)?,
                parity: self.names.word(parity)?,
            }),
            _ => Err(statement.unknown()),
        }
    }
}
