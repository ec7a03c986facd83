//! Writes code-like text of any size, as JSON lines with the field `content`: for training a tokenizer on more text than
//! a machine has memory.
//!
//!     cargo run --release -p eyas-token --example generate_code -- 20GB > code.jsonl
//!
//! The same size and seed (the second argument, 1 by default) give the same bytes. Identifiers follow Zipf's law over a
//! vocabulary of 200,000; beside them stand names made up on the spot, numbers in hexadecimal and decimal, and strings, so
//! that the number of distinct words keeps growing with the text, as it does in real corpora: 1 to 2 % of words are new.

use std::io::{BufWriter, Write};

/// Names that are used again and again.
const NUM_NAMES: usize = 200_000;
/// One name in so many is made up on the spot.
const NEW_EVERY: u64 = 22;
/// Bytes of a document, on average.
const DOCUMENT_BYTES: usize = 6000;

const STEMS: &[&str] = &[
    "get", "set", "make", "node", "tree", "list", "item", "value", "index", "count", "name", "path", "file",
    "read", "write", "open", "close", "parse", "token", "word", "line", "text", "data", "map", "key", "hash",
    "table", "state", "next", "last", "first", "size", "num", "max", "min", "sum", "buffer", "stream",
    "request", "response", "server", "client", "error", "result", "config", "option", "user", "event",
    "loop", "queue", "thread", "lock", "task", "time", "date", "test", "check", "update", "build", "load",
    "save", "graph", "edge", "matrix", "vector", "tensor", "batch", "layer", "model", "train",
];

/// A small generator of numbers (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// An index below `bound`, the one at `i` with a chance of about 1 / (i + 1).
    fn zipf(&mut self, bound: usize) -> usize {
        let uniform = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        (((bound as f64 + 1.0).powf(uniform) - 1.0) as usize).min(bound - 1)
    }
}

/// Stems and syllables, in camel case: the tail of a vocabulary is made of the same pieces as its head.
fn make_name(random: &mut Random, name: &mut String) {
    for part in 0..1 + random.below(3) {
        let start = name.len();
        if random.below(4) > 0 {
            name.push_str(STEMS[random.zipf(STEMS.len())]);
        } else {
            for _ in 0..1 + random.below(3) {
                name.push(char::from(b"bcdfghjklmnpqrstvwxz"[random.below(20) as usize]));
                name.push(char::from(b"aeiou"[random.below(5) as usize]));
            }
        }
        if part > 0 {
            name[start..=start].make_ascii_uppercase();
        }
    }
}

struct Code {
    random: Random,
    names: Vec<String>,
    scratch: String,
}

impl Code {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let names = (0..NUM_NAMES).map(|_| {
            let mut name = String::new();
            make_name(&mut random, &mut name);
            name
        });
        let names = names.collect();
        Self { random, names, scratch: String::new() }
    }

    fn name(&mut self, out: &mut String) {
        if self.random.below(NEW_EVERY) > 0 {
            let index = self.random.zipf(NUM_NAMES);
            out.push_str(&self.names[index]);
            return;
        }
        self.scratch.clear();
        make_name(&mut self.random, &mut self.scratch);
        // Letters that nobody has written before, most of the time.
        for _ in 0..5 {
            self.scratch.push(char::from(b'a' + self.random.zipf(26) as u8));
        }
        out.push_str(&self.scratch);
    }

    fn value(&mut self, out: &mut String) {
        match self.random.below(8) {
            0 => out.push_str(&format!("0x{:08x}", self.random.next() as u32)),
            1 => out.push_str(&(self.random.next() >> (self.random.below(60) + 4)).to_string()),
            // The quotes are escaped as JSON wants them.
            2 => {
                out.push_str("\\\"");
                for _ in 0..1 + self.random.below(5) {
                    self.name(out);
                    out.push(' ');
                }
                out.push_str("\\\"");
            }
            _ => self.name(out),
        }
    }

    /// A line of code, ended as JSON spells it.
    fn line(&mut self, out: &mut String) {
        for _ in 0..1 + self.random.below(3) {
            out.push_str("    ");
        }
        match self.random.below(5) {
            0 => {
                out.push_str("if ");
                self.name(out);
                out.push_str(" == ");
                self.value(out);
                out.push_str(" {");
            }
            1 => {
                out.push_str("// ");
                for _ in 0..3 + self.random.below(8) {
                    self.name(out);
                    out.push(' ');
                }
            }
            2 => {
                out.push_str("return ");
                self.name(out);
                out.push_str(";\\n}\\n\\nfn ");
                self.name(out);
                out.push_str("(self) {");
            }
            _ => {
                out.push_str("let ");
                self.name(out);
                out.push_str(" = self.");
                self.name(out);
                out.push('(');
                self.value(out);
                out.push_str(", ");
                self.value(out);
                out.push_str(");");
            }
        }
        out.push_str("\\n");
    }

    fn document(&mut self, out: &mut String) {
        out.clear();
        out.push_str("{\"content\": \"fn main() {\\n");
        let wanted = DOCUMENT_BYTES / 2 + self.random.below(DOCUMENT_BYTES as u64) as usize;
        while out.len() < wanted {
            self.line(out);
        }
        out.push_str("}\\n\"}\n");
    }
}

/// `20GB`, `300MB` or a number of bytes.
fn size(text: &str) -> Option<u64> {
    let (number, scale) = match (text.strip_suffix("GB"), text.strip_suffix("MB")) {
        (Some(number), _) => (number, 1_000_000_000),
        (_, Some(number)) => (number, 1_000_000),
        _ => (text, 1),
    };
    Some(number.parse::<u64>().ok()? * scale)
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let num_bytes = arguments.next().as_deref().and_then(size);
    let seed = arguments.next().map_or(Some(1), |seed| seed.parse().ok());
    let (Some(num_bytes), Some(seed)) = (num_bytes, seed) else {
        return Err(std::io::Error::other("usage: generate_code SIZE [SEED], with a SIZE such as 300MB"));
    };
    let mut out = BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
    let (mut code, mut document, mut written) = (Code::new(seed), String::new(), 0);
    while written < num_bytes {
        code.document(&mut document);
        out.write_all(document.as_bytes())?;
        written += document.len() as u64;
    }
    out.flush()
}
