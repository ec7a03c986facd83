//! From the statements of a kernel to instructions.

mod arithmetic;
mod tensor;

use super::allocate::allocate;
use super::operands::{Class, Names, class_of};
use super::text::{self, Entry, Piece, Shared};
use super::{Kernel, Parameter};
use crate::machine::{Access, Guard, Instruction, Op, Shuffle, Space};

/// A statement's parts: `ld.global.v4.f32 {...}, [...]` is its opcode, cut at the dots, and its operands.
struct Statement<'a> {
    text: &'a str,
    opcode: Vec<&'a str>,
    operands: Vec<&'a str>,
}

impl<'a> Statement<'a> {
    fn cut(text: &'a str) -> Self {
        let (opcode, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        // `shared::cta` stays one part.
        Statement { text, opcode: opcode.split('.').collect(), operands: cut_operands(operands) }
    }

    fn unknown(&self) -> String {
        format!("an instruction that is not known: {}", self.text)
    }

    /// The operands, of which there must be N.
    fn operands<const N: usize>(&self) -> Result<[&'a str; N], String> {
        self.operands.clone().try_into().map_err(|_| self.unknown())
    }

    fn has(&self, part: &str) -> bool {
        self.opcode.contains(&part)
    }

    /// The last part of the opcode: the type.
    fn kind(&self) -> &'a str {
        self.opcode.last().copied().unwrap_or_default()
    }
}

/// Operands, cut at commas outside of braces and brackets.
fn cut_operands(text: &str) -> Vec<&str> {
    let (mut operands, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            ',' if depth == 0 => {
                operands.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        operands.push(text[start..].trim());
    }
    operands
}

/// A branch whose target is still a name.
struct Branch<'a> {
    at: usize,
    label: &'a str,
    scopes: Vec<usize>,
}

#[derive(Default)]
struct Decoder<'a> {
    names: Names<'a>,
    kernel: Kernel,
    branches: Vec<Branch<'a>>,
}

/// Decodes a kernel.
pub(super) fn kernel<'a>(entry: &Entry<'a>, shared: &[Shared<'a>]) -> Result<Kernel, String> {
    let mut decoder = Decoder::default();
    decoder.kernel.name = entry.name.into();
    decoder.head(entry)?;
    let pieces = text::pieces(entry.body)?;
    decoder.shared(entry, &pieces, shared)?;
    decoder.names.open();
    for piece in pieces {
        let at = decoder.kernel.code.len() as u32;
        match piece {
            Piece::Open => decoder.names.open(),
            Piece::Close => decoder.names.close(),
            Piece::Label(name) => decoder.names.label(name, at),
            Piece::Statement(text) if text.starts_with('.') => {
                if let Some(registers) = text.strip_prefix(".reg") {
                    decoder.names.declare(registers)?;
                }
            }
            Piece::Statement(text) => {
                decoder.statement(text).map_err(|error| format!("{error}, in: {text}"))?;
            }
        }
    }
    decoder.kernel.code.push(Instruction { guard: None, op: Op::Exit });
    decoder.kernel.texts.push("the end".into());
    let Decoder { names, mut kernel, branches } = decoder;
    for Branch { at, label, scopes } in branches {
        kernel.code[at].op = Op::Branch { target: names.find_label(&scopes, label)? };
    }
    names.finish(&mut kernel);
    allocate(&mut kernel);
    Ok(kernel)
}

impl<'a> Decoder<'a> {
    fn head(&mut self, entry: &Entry<'a>) -> Result<(), String> {
        let mut offset: usize = 0;
        let parameters = entry.parameters.split(',').map(str::trim).filter(|text| !text.is_empty());
        for text in parameters {
            let wrong = || format!("a parameter that is not understood: {text}");
            let rest = text.strip_prefix(".param ").ok_or_else(wrong)?;
            let (name, align, bytes) = if rest.starts_with(".align") {
                text::declaration(rest).ok_or_else(wrong)?
            } else {
                // Between type and name may be said what a pointer points to: .u64 .ptr .align 1 name.
                let (kind, rest) = rest.split_once(' ').ok_or_else(wrong)?;
                let name = rest.split_whitespace().next_back().ok_or_else(wrong)?;
                let bytes = bytes_of(kind.trim_start_matches('.'))?;
                (name, bytes, bytes)
            };
            offset = offset.next_multiple_of(align);
            self.names.parameters.insert(name, offset as u32);
            self.kernel.parameters.push(Parameter { offset, bytes });
            offset += bytes;
        }
        self.kernel.cluster = 1;
        for line in entry.directives.lines().map(str::trim) {
            let (name, numbers) = line.split_once(' ').unwrap_or((line, ""));
            let product = numbers.split(',').filter_map(|number| number.trim().parse::<u32>().ok()).product();
            match name {
                ".maxntid" | ".reqntid" => self.kernel.max_threads = product,
                ".reqnctapercluster" => self.kernel.cluster = product,
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives shared memory its places: what the kernel declares or names, then what the launch brings.
    fn shared(
        &mut self,
        entry: &Entry<'a>,
        pieces: &[Piece<'a>],
        module: &[Shared<'a>],
    ) -> Result<(), String> {
        let mut declared = Vec::new();
        for piece in pieces {
            let Piece::Statement(text) = piece else { continue };
            let Some(rest) = text.strip_prefix(".shared") else { continue };
            let found = text::declaration(rest);
            declared.push(found.ok_or_else(|| format!("a declaration that is not understood: {text}"))?);
        }
        let of_module = module.iter().filter(|shared| entry.body.contains(shared.name));
        declared.extend(of_module.filter_map(|shared| Some((shared.name, shared.align, shared.bytes?))));
        let mut end: usize = 0;
        for (name, align, bytes) in declared {
            let begin = end.next_multiple_of(align);
            self.names.shared.insert(name, begin as u32);
            end = begin + bytes;
        }
        let dynamic = || module.iter().filter(|shared| shared.bytes.is_none());
        end = end.next_multiple_of(dynamic().map(|shared| shared.align).max().unwrap_or(1));
        self.names.shared.extend(dynamic().map(|shared| (shared.name, end as u32)));
        self.kernel.static_shared = end;
        Ok(())
    }

    fn statement(&mut self, text: &'a str) -> Result<(), String> {
        let (guard, rest) = match text.strip_prefix('@') {
            Some(guarded) => {
                let (name, rest) = guarded.split_once(char::is_whitespace).ok_or("a guard without more")?;
                let (is_negated, name) = name.strip_prefix('!').map_or((false, name), |name| (true, name));
                let predicate = self.names.predicate(name)?;
                (Some(Guard { predicate, is_negated }), rest.trim())
            }
            None => (None, text),
        };
        let statement = Statement::cut(rest);
        let op = self.op(&statement)?;
        self.kernel.code.push(Instruction { guard, op });
        self.kernel.texts.push(text.split_whitespace().collect::<Vec<_>>().join(" "));
        Ok(())
    }

    fn op(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        match statement.opcode[0] {
            "bra" => {
                let [label] = statement.operands()?;
                let scopes = self.names.scope_numbers();
                self.branches.push(Branch { at: self.kernel.code.len(), label, scopes });
                Ok(Op::Nothing)
            }
            "ret" | "exit" => Ok(Op::Exit),
            "st" if statement.has("async") => self.store_async(statement),
            "ld" | "st" => self.access(statement),
            "atom" | "red" => self.atomic(statement),
            "shfl" => self.shuffle(statement),
            "match" if statement.has("any") && statement.kind() == "b32" => {
                let [d, a, members] = statement.operands()?;
                Ok(Op::MatchAny {
                    d: self.names.written(d, Class::Word)?,
                    a: self.names.word(a)?,
                    members: self.names.word(members)?,
                })
            }
            "vote" if statement.has("any") && statement.kind() == "pred" => {
                let [d, a, members] = statement.operands()?;
                Ok(Op::VoteAny {
                    d: self.names.written(d, Class::Predicate)?,
                    a: self.names.predicate(a)?,
                    members: self.names.word(members)?,
                })
            }
            "bar" if statement.has("warp") => {
                let [members] = statement.operands()?;
                Ok(Op::WarpBarrier { members: self.names.word(members)? })
            }
            "bar" | "barrier" if statement.has("sync") => {
                let number =
                    self.names.word(statement.operands.first().ok_or_else(|| statement.unknown())?)?;
                let count = statement.operands.get(1).map(|count| self.names.word(count)).transpose()?;
                Ok(Op::Barrier { number, count })
            }
            "barrier" if statement.has("cluster") && statement.has("arrive") => Ok(Op::ClusterArrive),
            "barrier" if statement.has("cluster") && statement.has("wait") => Ok(Op::ClusterWait),
            // What orders memory, or gives registers away, changes nothing where all is in order.
            "fence" | "membar" | "setmaxnreg" => Ok(Op::Nothing),
            // A kernel begins when all before it have ended, whatever it would allow.
            "griddepcontrol" => Ok(Op::Nothing),
            "cp" | "mbarrier" | "mapa" | "mma" | "wgmma" | "ldmatrix" | "stmatrix" => self.tensor(statement),
            _ => self.arithmetic(statement),
        }
    }

    /// st.async of a word.
    fn store_async(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        let [to, a, barrier] = statement.operands()?;
        if !matches!(statement.kind(), "b32" | "u32" | "f32") || space_of(statement) != Space::Shared {
            return Err(statement.unknown());
        }
        let (to, barrier) = (self.names.address(to)?, self.names.address(barrier)?);
        Ok(Op::StoreAsync { to, a: self.names.word(a)?, barrier })
    }

    /// ld and st.
    fn access(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        let [first, second] = statement.operands()?;
        let is_load = statement.opcode[0] == "ld";
        let kind = statement.kind();
        let bytes = bytes_of(kind)?;
        let (registers, address) = if is_load { (first, second) } else { (second, first) };
        let mut slots = [0; 4];
        let listed = super::operands::list(registers);
        let count = listed.len();
        let is_vector = statement.has("v2") || statement.has("v4");
        if count > 4 || is_vector != (count > 1) {
            return Err(statement.unknown());
        }
        let class = match listed.first().and_then(|name| self.names.class(name)) {
            Some(class) => class,
            None => class_of(kind)?,
        };
        if statement.has("param") {
            let d = self.names.written(first, class)?;
            let is_double = class == Class::Double;
            let offset = self.names.parameter(second)?;
            return Ok(Op::LoadParameter { d, bytes: bytes as u8, is_double, offset });
        }
        for (slot, name) in slots.iter_mut().zip(listed) {
            *slot = match (is_load, class) {
                (true, class) => self.names.written(name, class)?,
                (false, Class::Double) => self.names.double(name)?,
                (false, _) => self.names.word(name)?,
            };
        }
        let access = Access {
            space: space_of(statement),
            bytes: bytes as u8,
            count: count as u8,
            is_signed: kind.starts_with('s'),
            is_double: class == Class::Double,
            slots,
            address: self.names.address(address)?,
        };
        Ok(if is_load { Op::Load(Box::new(access)) } else { Op::Store(Box::new(access)) })
    }

    fn atomic(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        if !statement.has("add") || !matches!(statement.kind(), "u32" | "s32") {
            return Err(statement.unknown());
        }
        let (d, address, a) = match (statement.opcode[0], statement.operands.as_slice()) {
            ("atom", [d, address, a]) => (*d, *address, *a),
            ("red", [address, a]) => ("_", *address, *a),
            _ => return Err(statement.unknown()),
        };
        Ok(Op::AtomicAdd {
            space: space_of(statement),
            d: self.names.written(d, Class::Word)?,
            address: self.names.address(address)?,
            a: self.names.word(a)?,
        })
    }

    fn shuffle(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        let [d, a, b, c, members] = statement.operands()?;
        let f = match statement.opcode.get(2) {
            Some(&"bfly") => Shuffle::Butterfly,
            Some(&"idx") => Shuffle::Index,
            Some(&"up") => Shuffle::Up,
            Some(&"down") => Shuffle::Down,
            _ => return Err(statement.unknown()),
        };
        let (d, valid) = d.split_once('|').map_or((d, None), |(d, valid)| (d, Some(valid)));
        Ok(Op::Shuffle {
            f,
            d: self.names.written(d, Class::Word)?,
            valid: valid.map(|valid| self.names.written(valid, Class::Predicate)).transpose()?,
            a: self.names.word(a)?,
            b: self.names.word(b)?,
            c: self.names.word(c)?,
            members: self.names.word(members)?,
        })
    }
}

fn space_of(statement: &Statement<'_>) -> Space {
    match statement.opcode.iter().find(|part| part.starts_with("shared") || **part == "global") {
        Some(&"global") => Space::Global,
        Some(_) => Space::Shared,
        None => Space::Generic,
    }
}

/// The bytes of a type such as `u16`.
fn bytes_of(kind: &str) -> Result<usize, String> {
    match kind.trim_start_matches(|c: char| c.is_alphabetic()) {
        "8" => Ok(1),
        "16" => Ok(2),
        "32" => Ok(4),
        "64" => Ok(8),
        _ => Err(format!("a type of unknown size: .{kind}")),
    }
}
