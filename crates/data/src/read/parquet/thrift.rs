//! The compact protocol of Thrift, in which parquet writes its footer and the headers of its pages.
//!
//! Nothing is allocated by what a length claims: bytes are taken or passed over as they come, every element of a list costs
//! at least a byte of input, and nesting is bounded. So a reader does work in proportion to what it is given.

use super::Fault;
use std::io::{BufRead, Read};

/// Deepest nesting of a field that is passed over. Parquet itself needs 5.
const MAX_DEPTH: u32 = 32;

/// The type of a field or element, as the protocol numbers it. A boolean field carries its value in the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    True,
    False,
    Byte,
    I16,
    I32,
    I64,
    Double,
    Binary,
    List,
    Set,
    Map,
    Struct,
}

impl Kind {
    fn of(code: u8) -> Result<Self, Fault> {
        Ok(match code {
            1 => Kind::True,
            2 => Kind::False,
            3 => Kind::Byte,
            4 => Kind::I16,
            5 => Kind::I32,
            6 => Kind::I64,
            7 => Kind::Double,
            8 => Kind::Binary,
            9 => Kind::List,
            10 => Kind::Set,
            11 => Kind::Map,
            12 => Kind::Struct,
            _ => return Err(Fault::new(format!("has metadata of the unknown type {code}"))),
        })
    }
}

/// A reader of structures.
pub(super) struct Compact<R> {
    input: R,
    num_read: u64,
}

impl<R: BufRead> Compact<R> {
    pub(super) fn new(input: R) -> Self {
        Compact { input, num_read: 0 }
    }

    /// Bytes taken so far.
    pub(super) fn num_read(&self) -> u64 {
        self.num_read
    }

    /// The type of the next field, whose number goes to `id`, where the one before is. `None` at the end of the structure.
    pub(super) fn field(&mut self, id: &mut i16) -> Result<Option<Kind>, Fault> {
        let byte = self.byte()?;
        if byte & 0x0f == 0 {
            return Ok(None);
        }
        *id = match byte >> 4 {
            0 => self.integer(i64::from(i16::MIN), i64::from(i16::MAX))? as i16,
            step => id
                .checked_add(i16::from(step))
                .ok_or_else(|| Fault::new("has metadata of too many fields"))?,
        };
        Kind::of(byte & 0x0f).map(Some)
    }

    pub(super) fn i32(&mut self) -> Result<i32, Fault> {
        self.integer(i64::from(i32::MIN), i64::from(i32::MAX)).map(|value| value as i32)
    }

    pub(super) fn i64(&mut self) -> Result<i64, Fault> {
        self.integer(i64::MIN, i64::MAX)
    }

    /// Bytes, `most` of them at the most.
    pub(super) fn binary(&mut self, most: u64) -> Result<Vec<u8>, Fault> {
        let len = self.varint()?;
        if len > most {
            return Err(Fault::new(format!(
                "has a name of {len} bytes in its metadata, expected {most} at the most"
            )));
        }
        let mut bytes = Vec::new();
        self.input.by_ref().take(len).read_to_end(&mut bytes)?;
        self.num_read += bytes.len() as u64;
        if (bytes.len() as u64) < len {
            return Err(Fault::ended());
        }
        Ok(bytes)
    }

    /// The type of a list's elements and their number, which costs nothing yet and may be a lie.
    pub(super) fn list(&mut self) -> Result<(Kind, u64), Fault> {
        let byte = self.byte()?;
        let len = match byte >> 4 {
            15 => self.varint()?,
            len => u64::from(len),
        };
        // Some writers give an empty list no type.
        let kind = if len == 0 { Kind::Byte } else { Kind::of(byte & 0x0f)? };
        Ok((kind, len))
    }

    /// The number of a list's elements, which are structures.
    pub(super) fn structures(&mut self) -> Result<u64, Fault> {
        match self.list()? {
            (Kind::Struct, len) | (_, len @ 0) => Ok(len),
            (kind, _) => {
                Err(Fault::new(format!("has a list of {kind:?} in its metadata, expected structures")))
            }
        }
    }

    /// Passes over the value of a field.
    pub(super) fn skip(&mut self, kind: Kind) -> Result<(), Fault> {
        // A boolean field has no bytes of its own.
        if matches!(kind, Kind::True | Kind::False) { Ok(()) } else { self.skip_element(kind, MAX_DEPTH) }
    }

    fn skip_element(&mut self, kind: Kind, depth: u32) -> Result<(), Fault> {
        let depth =
            depth.checked_sub(1).ok_or_else(|| Fault::new("has metadata that is nested too deeply"))?;
        match kind {
            Kind::True | Kind::False | Kind::Byte => self.byte().map(|_| ()),
            Kind::I16 | Kind::I32 | Kind::I64 => self.varint().map(|_| ()),
            Kind::Double => self.skip_bytes(8),
            Kind::Binary => {
                let len = self.varint()?;
                self.skip_bytes(len)
            }
            Kind::List | Kind::Set => {
                let (kind, len) = self.list()?;
                (0..len).try_for_each(|_| self.skip_element(kind, depth))
            }
            Kind::Map => {
                let len = self.varint()?;
                if len == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                let (key, value) = (Kind::of(kinds >> 4)?, Kind::of(kinds & 0x0f)?);
                (0..len).try_for_each(|_| {
                    self.skip_element(key, depth)?;
                    self.skip_element(value, depth)
                })
            }
            Kind::Struct => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    if !matches!(kind, Kind::True | Kind::False) {
                        self.skip_element(kind, depth)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        let byte = *self.input.fill_buf()?.first().ok_or_else(Fault::ended)?;
        self.input.consume(1);
        self.num_read += 1;
        Ok(byte)
    }

    fn skip_bytes(&mut self, mut len: u64) -> Result<(), Fault> {
        while len > 0 {
            let available = self.input.fill_buf()?.len();
            if available == 0 {
                return Err(Fault::ended());
            }
            let step = available.min(usize::try_from(len).unwrap_or(usize::MAX));
            self.input.consume(step);
            self.num_read += step as u64;
            len -= step as u64;
        }
        Ok(())
    }

    /// Seven bits a byte, the lowest first.
    fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Fault::new("has a number of more than 64 bits in its metadata"))
    }

    /// A signed number: 0, -1, 1, -2 and so on are 0, 1, 2, 3.
    fn integer(&mut self, least: i64, most: i64) -> Result<i64, Fault> {
        let value = self.varint()?;
        let value = (value >> 1) as i64 ^ -((value & 1) as i64);
        if (least..=most).contains(&value) {
            return Ok(value);
        }
        Err(Fault::new(format!("has {value} in its metadata, expected {least} to {most}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lies_cost_no_more_than_their_bytes() {
        let skip = |bytes: &[u8], kind| Compact::new(bytes).skip(kind);
        // Two billion booleans, strings, lists and pairs that are not there.
        let len = [0xff, 0xff, 0xff, 0xff, 0x07];
        for kind in [1, 8, 9, 12] {
            assert!(skip(&[&[0xf0 | kind], &len[..]].concat(), Kind::List).is_err());
        }
        assert!(skip(&[&len[..], &[0x11]].concat(), Kind::Map).is_err());
        assert!(skip(&len, Kind::Binary).is_err());
        assert!(Compact::new(&len[..]).binary(u64::MAX).is_err());
        // Lists of a list, without end; numbers without end.
        assert!(skip(&[0x19; 100], Kind::List).is_err());
        assert!(skip(&[0x80; 100], Kind::I64).is_err());
        assert!(skip(&[0x1d], Kind::Struct).is_err(), "an unknown type");
    }

    #[test]
    fn fields() {
        // {1: i32 = -3, 2: true, 20: "ab"}
        let bytes = [0x15, 0x05, 0x11, 0x08, 0x28, 0x02, b'a', b'b', 0x00, 0xee];
        let mut input = Compact::new(&bytes[..]);
        let mut id = 0;
        assert_eq!((input.field(&mut id).ok().flatten(), id), (Some(Kind::I32), 1));
        assert_eq!(input.i32().ok(), Some(-3));
        assert_eq!((input.field(&mut id).ok().flatten(), id), (Some(Kind::True), 2));
        assert_eq!((input.field(&mut id).ok().flatten(), id), (Some(Kind::Binary), 20));
        assert_eq!(input.binary(10).ok(), Some(b"ab".to_vec()));
        assert!(matches!(input.field(&mut id), Ok(None)));
        assert_eq!(input.num_read(), 9);
        assert!(Compact::new(&bytes[..]).skip(Kind::Struct).is_ok());
    }
}
