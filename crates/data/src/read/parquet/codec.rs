//! How the pages of a parquet file are compressed.
//!
//! A page must give exactly the bytes its header promises. Memory grows with what really comes out, where the format
//! allows that; snappy and LZ4 need room for all of it at once, and get it only if so short an input can give so much.

use std::io::Read;

/// Largest window of zstd: 2^27 bytes.
const MAX_WINDOW_LOG: u32 = 27;
/// Bytes that one byte of snappy can give at the most: 64 from a copy of two or three.
const MAX_SNAPPY_RATIO: usize = 32;
/// The same of LZ4: 255 from each further byte of a length.
const MAX_LZ4_RATIO: usize = 255;
/// Room that is made before anything has come out.
const FIRST_BYTES: usize = 1 << 20;

/// A way of compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    None,
    Snappy,
    Gzip,
    Brotli,
    Zstd,
    Lz4,
}

impl Codec {
    /// The codec of a number in the footer.
    pub(super) fn of(code: Option<i32>) -> Result<Self, String> {
        let name = match code {
            Some(0) => return Ok(Codec::None),
            Some(1) => return Ok(Codec::Snappy),
            Some(2) => return Ok(Codec::Gzip),
            Some(4) => return Ok(Codec::Brotli),
            Some(6) => return Ok(Codec::Zstd),
            Some(7) => return Ok(Codec::Lz4),
            Some(3) => "LZO".to_owned(),
            Some(5) => "LZ4 in the framing of Hadoop".to_owned(),
            Some(code) => format!("the unknown codec {code}"),
            None => return Err("has a row group without a codec".to_owned()),
        };
        Err(format!("is compressed with {name}, expected none, snappy, gzip, brotli, zstd or LZ4_RAW"))
    }

    /// Appends to `output` the `expected` bytes that `input` gives.
    pub(super) fn decompress(
        self,
        input: &[u8],
        output: &mut Vec<u8>,
        expected: usize,
    ) -> Result<(), String> {
        let before = output.len();
        match self {
            Codec::None => output.extend_from_slice(input),
            Codec::Snappy => {
                let len = snap::raw::decompress_len(input).map_err(|error| damaged("snappy", &error))?;
                possible(len, expected, input.len(), MAX_SNAPPY_RATIO)?;
                output.resize(before + expected, 0);
                let result = snap::raw::Decoder::new().decompress(input, &mut output[before..]);
                result.map_err(|error| damaged("snappy", &error))?;
            }
            Codec::Lz4 => {
                possible(expected, expected, input.len(), MAX_LZ4_RATIO)?;
                output.resize(before + expected, 0);
                let result = lz4_flex::block::decompress_into(input, &mut output[before..]);
                let len = result.map_err(|error| damaged("LZ4", &error))?;
                output.truncate(before + len);
            }
            Codec::Gzip => collect("gzip", flate2::bufread::MultiGzDecoder::new(input), output, expected)?,
            Codec::Brotli => {
                const BUFFER_BYTES: usize = 64 << 10;
                let decoder = brotli_decompressor::Decompressor::new(input, BUFFER_BYTES);
                collect("brotli", decoder, output, expected)?;
            }
            Codec::Zstd => {
                let zstd = |error: std::io::Error| damaged("zstd", &error);
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(zstd)?;
                decoder.window_log_max(MAX_WINDOW_LOG).map_err(zstd)?;
                collect("zstd", decoder, output, expected)?;
            }
        }
        let found = output.len() - before;
        if found != expected {
            return Err(format!("has a page of {expected} bytes that gives {found}"));
        }
        Ok(())
    }
}

/// Appends what a decoder gives, a byte past what is expected at the most.
fn collect(name: &str, decoder: impl Read, output: &mut Vec<u8>, expected: usize) -> Result<(), String> {
    output.reserve(expected.min(FIRST_BYTES));
    let result = decoder.take(expected as u64 + 1).read_to_end(output);
    result.map(|_| ()).map_err(|error| damaged(name, &error))
}

fn damaged(name: &str, error: &dyn std::fmt::Display) -> String {
    format!("has a page of damaged {name} data: {error}")
}

/// Whether an input can give what is expected of it.
fn possible(claimed: usize, expected: usize, input: usize, ratio: usize) -> Result<(), String> {
    if claimed != expected || expected > (input + 1).saturating_mul(ratio) {
        return Err(format!("has a page of {expected} bytes that {input} compressed bytes cannot give"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_and_bounded() {
        let text = b"fn main() {}\n".repeat(1000);
        let snappy = snap::raw::Encoder::new().compress_vec(&text).expect("snappy");
        let lz4 = lz4_flex::block::compress(&text);
        let zstd = zstd::encode_all(&text[..], 3).expect("zstd");
        for (codec, input) in [(Codec::Snappy, snappy), (Codec::Lz4, lz4), (Codec::Zstd, zstd)] {
            let mut output = b"levels".to_vec();
            assert_eq!(codec.decompress(&input, &mut output, text.len()), Ok(()), "{codec:?}");
            assert_eq!(output[6..], text);
            for wrong in [0, 1, text.len() - 1, text.len() + 1, 1 << 30] {
                let mut output = Vec::new();
                assert!(codec.decompress(&input, &mut output, wrong).is_err(), "{codec:?} {wrong}");
                assert!(output.capacity() <= 2 << 20, "{codec:?} took {} bytes", output.capacity());
            }
        }
        // The densest that snappy gets is within the ratio.
        let zeros = vec![0; 1 << 20];
        let input = snap::raw::Encoder::new().compress_vec(&zeros).expect("snappy");
        assert_eq!(Codec::Snappy.decompress(&input, &mut Vec::new(), zeros.len()), Ok(()));
        let input = lz4_flex::block::compress(&zeros);
        assert_eq!(Codec::Lz4.decompress(&input, &mut Vec::new(), zeros.len()), Ok(()));
    }
}
