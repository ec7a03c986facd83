//! Names: what registers, labels, symbols and constants of a kernel are called, and the slots they get.

use super::{Kernel, Registers};
use crate::machine::{Address, Base, Initial, Special};
use std::collections::HashMap;

/// A register's class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Word,
    Double,
    Predicate,
}

/// The class of a type such as `f32`.
pub(super) fn class_of(kind: &str) -> Result<Class, String> {
    match kind {
        "pred" => Ok(Class::Predicate),
        "b8" | "u8" | "s8" | "b16" | "u16" | "s16" | "f16" | "bf16" | "b32" | "u32" | "s32" | "f32"
        | "f16x2" | "bf16x2" => Ok(Class::Word),
        "b64" | "u64" | "s64" | "f64" => Ok(Class::Double),
        _ => Err(format!("an unknown type .{kind}")),
    }
}

/// Registers that were declared together: `%r<12>`, or one name.
#[derive(Clone, Copy, Debug)]
struct Declared {
    class: Class,
    first: u32,
    count: u32,
}

/// What names mean where the decoder is.
#[derive(Default)]
pub(super) struct Names<'a> {
    /// Innermost last; each with a number of its own, which labels are known by.
    scopes: Vec<(usize, HashMap<&'a str, Declared>)>,
    num_scopes: usize,
    labels: HashMap<(usize, &'a str), u32>,
    pub(super) shared: HashMap<&'a str, u32>,
    pub(super) parameters: HashMap<&'a str, u32>,
    registers: Registers,
    initial: HashMap<(bool, Initial), u32>,
}

impl<'a> Names<'a> {
    pub(super) fn open(&mut self) {
        self.scopes.push((self.num_scopes, HashMap::new()));
        self.num_scopes += 1;
    }

    pub(super) fn close(&mut self) {
        self.scopes.pop();
    }

    /// Takes `.reg .b32 %r<5>` or `.reg .pred adds`, without the `.reg`.
    pub(super) fn declare(&mut self, text: &'a str) -> Result<(), String> {
        let wrong = || format!("a declaration that is not understood: .reg {text}");
        let (kind, names) = text.trim().split_once(char::is_whitespace).ok_or_else(wrong)?;
        let class = class_of(kind.trim_start_matches('.'))?;
        for name in names.split(',').map(str::trim) {
            let (name, count) = match name.split_once('<') {
                Some((name, count)) => {
                    let count = count.strip_suffix('>').and_then(|count| count.parse().ok());
                    (name, count.ok_or_else(wrong)?)
                }
                None => (name, 1),
            };
            let first = self.new_slots(class, count);
            let scope = self.scopes.last_mut().ok_or("a register outside of a body")?;
            scope.1.insert(name, Declared { class, first, count });
        }
        Ok(())
    }

    fn new_slots(&mut self, class: Class, count: u32) -> u32 {
        let counter = match class {
            Class::Word => &mut self.registers.num_words,
            Class::Double => &mut self.registers.num_doubles,
            Class::Predicate => &mut self.registers.num_predicates,
        };
        *counter += count;
        *counter - count
    }

    pub(super) fn label(&mut self, name: &'a str, at: u32) {
        let scope = self.scopes.last().map_or(0, |scope| scope.0);
        self.labels.insert((scope, name), at);
    }

    /// The scopes that a label may be in, innermost first.
    pub(super) fn scope_numbers(&self) -> Vec<usize> {
        self.scopes.iter().rev().map(|scope| scope.0).collect()
    }

    pub(super) fn find_label(&self, scopes: &[usize], name: &str) -> Result<u32, String> {
        let found = scopes.iter().find_map(|&scope| self.labels.get(&(scope, name)));
        found.copied().ok_or_else(|| format!("there is no label {name}"))
    }

    fn register(&self, name: &str) -> Option<(Class, u32)> {
        let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, number) = name.split_at(digits);
        self.scopes.iter().rev().find_map(|(_, names)| {
            if let Some(one) = names.get(name) {
                return Some((one.class, one.first));
            }
            let many = names.get(prefix)?;
            let number: u32 = number.parse().ok()?;
            (number < many.count).then_some((many.class, many.first + number))
        })
    }

    /// The class that a register was declared in, which may be wider than what is loaded into it.
    pub(super) fn class(&self, name: &str) -> Option<Class> {
        self.register(name).map(|(class, _)| class)
    }

    fn of_class(&self, name: &str, class: Class) -> Result<Option<u32>, String> {
        match self.register(name) {
            Some((found, slot)) if found == class => Ok(Some(slot)),
            Some(_) => Err(format!("{name} is not a {class:?}")),
            None => Ok(None),
        }
    }

    /// A register that holds something from the start.
    fn with_initial(&mut self, is_double: bool, initial: Initial) -> u32 {
        if let Some(&slot) = self.initial.get(&(is_double, initial)) {
            return slot;
        }
        let slot = self.new_slots(if is_double { Class::Double } else { Class::Word }, 1);
        let list = if is_double { &mut self.registers.doubles } else { &mut self.registers.words };
        list.push((slot, initial));
        self.initial.insert((is_double, initial), slot);
        slot
    }

    fn initial_of(&self, text: &str) -> Result<Initial, String> {
        if let Some(name) = text.strip_prefix('%') {
            return special(name).map(Initial::Special);
        }
        if let Some(&offset) = self.shared.get(text) {
            return Ok(Initial::Shared(offset));
        }
        if let Some(&offset) = self.parameters.get(text) {
            return Ok(Initial::Parameter(offset));
        }
        constant(text).map(Initial::Constant)
    }

    /// A word: a register, a constant, a special register or a symbol's address.
    pub(super) fn word(&mut self, text: &str) -> Result<u32, String> {
        if let Some(slot) = self.of_class(text, Class::Word)? {
            return Ok(slot);
        }
        let initial = self.initial_of(text)?;
        Ok(self.with_initial(false, initial))
    }

    pub(super) fn double(&mut self, text: &str) -> Result<u32, String> {
        if let Some(slot) = self.of_class(text, Class::Double)? {
            return Ok(slot);
        }
        let initial = self.initial_of(text)?;
        Ok(self.with_initial(true, initial))
    }

    pub(super) fn predicate(&mut self, text: &str) -> Result<u32, String> {
        if let Some(slot) = self.of_class(text, Class::Predicate)? {
            return Ok(slot);
        }
        let value = match text {
            "0" => false,
            "1" | "-1" => true,
            _ => return Err(format!("{text} is no predicate")),
        };
        let slot = self.new_slots(Class::Predicate, 1);
        self.registers.predicates.push((slot, value));
        Ok(slot)
    }

    /// A register that is written to; a new one that nobody reads for `_`.
    pub(super) fn written(&mut self, text: &str, class: Class) -> Result<u32, String> {
        if text == "_" {
            return Ok(self.new_slots(class, 1));
        }
        self.of_class(text, class)?.ok_or_else(|| format!("there is no register {text}"))
    }

    /// `{a, b, ...}`, N of them.
    pub(super) fn words<const N: usize>(&mut self, text: &str) -> Result<[u32; N], String> {
        let slots = self.vector(text)?;
        slots.try_into().map_err(|slots: Vec<u32>| format!("{} registers instead of {N}", slots.len()))
    }

    pub(super) fn vector(&mut self, text: &str) -> Result<Vec<u32>, String> {
        list(text).into_iter().map(|name| self.word(name)).collect()
    }

    /// `[register]`, `[register+16]`, `[symbol]`.
    pub(super) fn address(&mut self, text: &str) -> Result<Address, String> {
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let inner = inner.ok_or_else(|| format!("{text} is no address"))?.trim();
        let (base, offset) = match inner.rfind('+') {
            Some(at) => (&inner[..at], constant(&inner[at + 1..])? as i64),
            None => (inner, 0),
        };
        let base = match self.register(base) {
            Some((Class::Double, slot)) => Base::Double(slot),
            Some((Class::Word, slot)) => Base::Word(slot),
            Some(_) => return Err(format!("{base} is no address")),
            None => match self.initial_of(base)? {
                initial @ Initial::Shared(_) => Base::Word(self.with_initial(false, initial)),
                initial => Base::Double(self.with_initial(true, initial)),
            },
        };
        Ok(Address { base, offset })
    }

    /// The place of a parameter, `[name]` or `[name+8]`.
    pub(super) fn parameter(&self, text: &str) -> Result<u32, String> {
        let inner = text.trim_start_matches('[').trim_end_matches(']');
        let (name, offset) = inner.split_once('+').unwrap_or((inner, "0"));
        let begin = self.parameters.get(name).ok_or_else(|| format!("there is no parameter {name}"))?;
        Ok(begin + constant(offset)? as u32)
    }

    pub(super) fn finish(self, kernel: &mut Kernel) {
        kernel.registers = self.registers;
    }
}

/// The parts of `{a, b}`.
pub(super) fn list(text: &str) -> Vec<&str> {
    text.trim().trim_start_matches('{').trim_end_matches('}').split(',').map(str::trim).collect()
}

/// A number's bits: an integer, or a float as its bits in hex.
fn constant(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let wrong = || format!("{text} is not understood");
    let hex = |digits: &str| u64::from_str_radix(digits, 16).map_err(|_| wrong());
    let (is_negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let value = if let Some(bits) = digits.strip_prefix("0f").or_else(|| digits.strip_prefix("0d")) {
        return hex(bits);
    } else if let Some(digits) = digits.strip_prefix("0x") {
        hex(digits.trim_end_matches('U'))?
    } else {
        digits.trim_end_matches('U').parse::<u64>().map_err(|_| wrong())?
    };
    Ok(if is_negative { value.wrapping_neg() } else { value })
}

fn special(name: &str) -> Result<Special, String> {
    let (name, dimension) = name.split_once('.').unwrap_or((name, "x"));
    let dimension = match dimension {
        "x" => 0,
        "y" => 1,
        "z" => 2,
        _ => return Err(format!("there is no %{name}.{dimension}")),
    };
    Ok(match name {
        "tid" => Special::Thread(dimension),
        "ntid" => Special::NumThreads(dimension),
        "ctaid" => Special::Block(dimension),
        "nctaid" => Special::NumBlocks(dimension),
        "laneid" => Special::Lane,
        "warpid" => Special::Warp,
        "cluster_ctarank" => Special::ClusterRank,
        "cluster_nctarank" => Special::ClusterBlocks,
        _ => return Err(format!("there is no %{name}")),
    })
}
