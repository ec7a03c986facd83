//! The bytes of a file, decompressed, in blocks that a thread of its own makes ahead of whoever reads them.
//!
//! Refuses zstd windows above 128 MiB and members or frames that do not end. The decoders are called directly, not through
//! their `Read` wrappers: on damage these drop what they had already decoded, and here everything before it comes out.

use super::queue::{Receiver, Sender, queue};
use crate::blob::Blob;
use crate::error::Error;
use flate2::{Decompress, FlushDecompress, Status};
use std::io::{self, Read};
use std::sync::Arc;
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

/// Bytes of a block.
const BLOCK_BYTES: usize = 1 << 20;
/// Blocks that may lie ready, in bytes: about what is parsed together, so that decompression never waits for parsing.
const AHEAD_BYTES: usize = 16 << 20;
/// Bytes that are read from the file at once.
const INPUT_BYTES: usize = 256 << 10;
/// Largest window of a zstd frame: 2^27 bytes, which is also what the zstd tool allows without being asked.
const MAX_WINDOW_LOG: u32 = 27;
/// Window of deflate, as a power of two.
const DEFLATE_WINDOW_BITS: u8 = 15;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// A file being read.
pub(super) struct Stream {
    name: String,
    receiver: Receiver<Message>,
    /// Whether the last block or an error has come.
    ended: bool,
}

enum Message {
    Block(Vec<u8>),
    /// The last message.
    End(Result<(), Error>),
}

impl Stream {
    /// Starts to read. The thread ends with the file, or when the stream is dropped.
    pub(super) fn start(blob: Arc<dyn Blob>, compression: Compression) -> Result<Self, Error> {
        let name = blob.name();
        let (sender, receiver) = queue(AHEAD_BYTES);
        let work = move || {
            let end = Pump::new(&*blob, compression).and_then(|mut pump| pump.run(&sender));
            // False only where nobody is interested.
            let _ = sender.send(Message::End(end), 0);
        };
        std::thread::Builder::new()
            .name("read".into())
            .spawn(work)
            .map_err(|source| Error::Read { path: name.clone().into(), source })?;
        Ok(Stream { name, receiver, ended: false })
    }

    /// Makes this the end.
    pub(super) fn finish(&mut self) {
        self.ended = true;
    }

    /// The next block, `None` at the end. After an error there is nothing more.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if self.ended {
            return Ok(None);
        }
        match self.receiver.receive() {
            Some(Message::Block(block)) => Ok(Some(block)),
            Some(Message::End(end)) => {
                self.ended = true;
                end.map(|()| None)
            }
            None => {
                self.ended = true;
                Err(super::decoder_died(&self.name))
            }
        }
    }
}

/// Moves bytes from the file through the decoder into blocks.
struct Pump {
    name: String,
    input: Box<dyn Read + Send>,
    decoder: Decoder,
    /// What was read and not yet decoded is `buffer[start..end]`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes read so far, and how many there are; 0 where the length says nothing, as with a pipe.
    num_read: u64,
    len: u64,
    /// Bytes decoded so far.
    num_decoded: u64,
}

impl Pump {
    fn new(blob: &dyn Blob, compression: Compression) -> Result<Self, Error> {
        let name = blob.name();
        let input = blob.read_from(0).map_err(|source| Error::Read { path: name.clone().into(), source })?;
        let decoder =
            Decoder::new(compression).map_err(|source| Error::Read { path: name.clone().into(), source })?;
        Ok(Pump {
            name,
            input,
            decoder,
            buffer: vec![0; INPUT_BYTES],
            start: 0,
            end: 0,
            num_read: 0,
            len: blob.len(),
            num_decoded: 0,
        })
    }

    /// Sends block after block. What was decoded before an error is sent before it is returned.
    fn run(&mut self, sender: &Sender<Message>) -> Result<(), Error> {
        loop {
            let mut block = vec![0; BLOCK_BYTES];
            let mut filled = 0;
            let result = self.fill_block(&mut block, &mut filled);
            block.truncate(filled);
            if filled > 0 && !sender.send(Message::Block(block), filled) {
                return Ok(());
            }
            match result {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Fills a block as far as the file goes. False at its end.
    fn fill_block(&mut self, block: &mut [u8], filled: &mut usize) -> Result<bool, Error> {
        let mut at_end = false;
        while *filled < block.len() {
            if self.start == self.end && !at_end {
                at_end = !self.read()?;
            }
            let given = self.end - self.start;
            let step = self.decoder.step(&self.buffer[self.start..self.end], &mut block[*filled..]);
            self.start += step.consumed;
            *filled += step.produced;
            self.num_decoded += step.produced as u64;
            step.result.map_err(|reason| self.broken(reason))?;
            if step.consumed == 0 && step.produced == 0 {
                if given > 0 {
                    return Err(self.broken("the decoder does not get on".into()));
                }
                if at_end {
                    return match self.cut() {
                        Some(reason) => Err(self.broken(reason)),
                        None => self.decoder.finish().map(|()| false).map_err(|reason| self.broken(reason)),
                    };
                }
            }
        }
        Ok(true)
    }

    /// Reads more. False at the end. A file that grows while it is read ends where it ended at first.
    fn read(&mut self) -> Result<bool, Error> {
        let most = match self.len {
            0 => self.buffer.len(),
            len => self.buffer.len().min(usize::try_from(len - self.num_read).unwrap_or(usize::MAX)),
        };
        loop {
            match self.input.read(&mut self.buffer[..most]) {
                Ok(num) => {
                    (self.start, self.end) = (0, num);
                    self.num_read += num as u64;
                    return Ok(num > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(format!("cannot be read: {error}"))),
            }
        }
    }

    /// What is wrong where the file ended before its length.
    fn cut(&self) -> Option<String> {
        let (len, num_read) = (self.len, self.num_read);
        (num_read < len).then(|| format!("ends here, but had {len} bytes when it was opened"))
    }

    fn broken(&self, reason: String) -> Error {
        let offset = self.num_read - (self.end - self.start) as u64;
        let text_offset = (!matches!(self.decoder, Decoder::Stored)).then_some(self.num_decoded);
        Error::BrokenFile { name: self.name.clone(), offset: Some(offset), text_offset, reason }
    }
}

/// What decodes the bytes of a file, a piece at a time.
enum Decoder {
    Stored,
    Gzip {
        inflate: Decompress,
        place: Place,
    },
    /// With the bytes that the decoder asked for last.
    Zstd {
        decoder: ZstdDecoder<'static>,
        place: Place,
        wanted: usize,
    },
}

/// Where a decoder is. A file may be several members or frames, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Start,
    Inside,
    Between,
}

/// What a decoder did with the bytes it was given. On an error too, what it consumed and produced before counts.
struct Step {
    consumed: usize,
    produced: usize,
    result: Result<(), String>,
}

impl Decoder {
    fn new(compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Decoder::Stored,
            Compression::Gzip => {
                Decoder::Gzip { inflate: Decompress::new_gzip(DEFLATE_WINDOW_BITS), place: Place::Start }
            }
            Compression::Zstd => {
                let mut decoder = ZstdDecoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))?;
                Decoder::Zstd { decoder, place: Place::Start, wanted: 1 }
            }
        })
    }

    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Step {
        match self {
            Decoder::Stored => {
                let len = input.len().min(output.len());
                output[..len].copy_from_slice(&input[..len]);
                Step { consumed: len, produced: len, result: Ok(()) }
            }
            Decoder::Gzip { inflate, place } => step_gzip(inflate, place, input, output),
            Decoder::Zstd { decoder, place, wanted } => step_zstd(decoder, place, wanted, input, output),
        }
    }

    /// Whether the file may end here.
    fn finish(&self) -> Result<(), String> {
        let (format, place) = match self {
            Decoder::Stored => return Ok(()),
            Decoder::Gzip { place, .. } => ("gzip", place),
            Decoder::Zstd { place, .. } => ("zstd", place),
        };
        match place {
            Place::Between => Ok(()),
            Place::Start => Err(format!("is empty, which no {format} file is")),
            Place::Inside => Err(format!("ends in the middle of its {format} data: it was cut")),
        }
    }
}

/// Members may be padded with zeros, as tapes do it; anything else after one is the next, or damage.
fn step_gzip(inflate: &mut Decompress, place: &mut Place, input: &[u8], output: &mut [u8]) -> Step {
    let mut consumed = 0;
    if *place == Place::Between {
        consumed = input.iter().take_while(|byte| **byte == 0).count();
    }
    let input = &input[consumed..];
    if input.is_empty() && *place != Place::Inside {
        return Step { consumed, produced: 0, result: Ok(()) };
    }
    if *place == Place::Between {
        inflate.reset(true);
    }
    *place = Place::Inside;
    let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
    let status = inflate.decompress(input, output, FlushDecompress::None);
    consumed += (inflate.total_in() - before_in) as usize;
    let produced = (inflate.total_out() - before_out) as usize;
    let result = match status {
        Ok(Status::StreamEnd) => {
            *place = Place::Between;
            Ok(())
        }
        Ok(Status::Ok | Status::BufError) => Ok(()),
        Err(error) => Err(format!("is damaged gzip data: {error}")),
    };
    Step { consumed, produced, result }
}

/// No more than the decoder asked for is given to it, which is a block: on damage it takes back what it decoded in that call.
fn step_zstd(
    decoder: &mut ZstdDecoder<'static>,
    place: &mut Place,
    wanted: &mut usize,
    input: &[u8],
    output: &mut [u8],
) -> Step {
    if input.is_empty() && *place != Place::Inside {
        return Step { consumed: 0, produced: 0, result: Ok(()) };
    }
    let mut input = InBuffer::around(&input[..input.len().min(*wanted)]);
    let mut output = OutBuffer::around(output);
    let status = decoder.run(&mut input, &mut output);
    let (consumed, produced) = (input.pos(), output.pos());
    if consumed > 0 || produced > 0 {
        // 0 is the decoder's word for a frame that is whole and handed over.
        *place = if matches!(status, Ok(0)) { Place::Between } else { Place::Inside };
    }
    *wanted = status.as_ref().map_or(1, |wanted| (*wanted).max(1));
    let result = status.map(|_| ()).map_err(|error| format!("is damaged zstd data: {error}"));
    Step { consumed, produced, result }
}
