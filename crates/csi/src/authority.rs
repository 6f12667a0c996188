//! Clients of gRPC's C family (Python, C++, Ruby) send the path of the Unix socket, percent-encoded,
//! as `:authority`: `run%2Fstowage%2Fcsi.sock`. RFC 3986 allows that in a host; the `http` crate does
//! not, and h2 resets the stream before any code of ours sees it.
//!
//! Nobody here reads the authority. So on the way in the bytes of it that would be refused are
//! replaced, each by one other: frames keep their lengths, and the compression table of HPACK its
//! sizes on both sides. No table is needed for it, only where each string begins and ends. A value
//! in Huffman code is left alone; those clients send none.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// "PRI * HTTP/2.0", an empty line, "SM" and another; RFC 9113, 3.4.
const PREFACE: usize = 24;

/// RFC 9113, 4.1.
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

const AUTHORITY: &[u8] = b":authority";

/// A connection whose `:authority` is made one that is understood.
pub(crate) struct Forgiving<S> {
    stream: S,
    frames: Frames,
}

impl<S> Forgiving<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            frames: Frames::default(),
        }
    }
}

impl<S: Connected> Connected for Forgiving<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Forgiving<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(new) = buf.filled_mut().get_mut(before..) {
            self.frames.pass(new);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Forgiving<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where in the frames of a connection we are.
#[derive(Default)]
struct Frames {
    /// Bytes of the preface seen.
    begun: usize,
    header: [u8; FRAME_HEADER],
    /// Bytes of the frame's header seen.
    seen: usize,
    /// Bytes of the frame's payload to come.
    left: usize,
    /// Whether it is a piece of a header block.
    block: bool,
    /// Whether the length of its padding comes next.
    pad_length: bool,
    padding: usize,
    /// Bytes before the header block.
    before: usize,
    fields: Fields,
}

impl Frames {
    fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let done = if self.begun < PREFACE {
                let done = bytes.len().min(PREFACE - self.begun);
                self.begun += done;
                done
            } else if self.left == 0 {
                self.header(bytes[0]);
                1
            } else if self.block {
                self.left -= 1;
                self.piece(&mut bytes[0]);
                1
            } else {
                let done = bytes.len().min(self.left);
                self.left -= done;
                done
            };
            bytes = &mut bytes[done..];
        }
    }

    fn header(&mut self, byte: u8) {
        self.header[self.seen] = byte;
        self.seen += 1;
        if self.seen < FRAME_HEADER {
            return;
        }
        self.seen = 0;
        let [a, b, c, kind, flags, ..] = self.header;
        self.left = (usize::from(a) << 16) | (usize::from(b) << 8) | usize::from(c);
        self.block = kind == HEADERS || kind == CONTINUATION;
        let flag = |flag| kind == HEADERS && flags & flag != 0;
        self.pad_length = flag(PADDED);
        self.padding = 0;
        self.before = if flag(PRIORITY) { 5 } else { 0 };
        if kind == HEADERS {
            self.fields = Fields::default();
        }
    }

    fn piece(&mut self, byte: &mut u8) {
        if self.pad_length {
            self.pad_length = false;
            self.padding = usize::from(*byte);
        } else if self.before > 0 {
            self.before -= 1;
        } else if self.left >= self.padding {
            self.fields.pass(byte);
        }
    }
}

/// Where in a header block we are; RFC 7541, 6.
#[derive(Default)]
struct Fields {
    at: At,
    /// Whether the field is the authority, or still may be.
    authority: bool,
}

#[derive(Clone, Copy, Default)]
enum At {
    #[default]
    Start,
    /// In the further bytes of an index, or of the size of the table.
    Index(Number, Kind),
    /// At the first byte of a string's length.
    String(Part),
    Length(Number, Part, bool),
    Bytes {
        of: Part,
        length: usize,
        done: usize,
        huffman: bool,
    },
}

/// What an index stands for.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A whole field, or no field at all.
    Whole,
    /// The name of a field whose value follows.
    Name,
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Name,
    Value,
}

/// An integer of more than its prefix; RFC 7541, 5.1.
#[derive(Clone, Copy)]
struct Number {
    value: usize,
    shift: u32,
}

impl Number {
    fn begin(prefix: u8, bits: u32) -> (usize, Option<Self>) {
        let most = (1_u8 << bits) - 1;
        let value = usize::from(prefix & most);
        let more = value == usize::from(most);
        (value, more.then_some(Self { value, shift: 0 }))
    }

    /// The value, once this was its last byte.
    fn push(&mut self, byte: u8) -> Option<usize> {
        // One that is too large is an error to h2; here it only must not overflow.
        let part = usize::from(byte & 0x7f).checked_shl(self.shift);
        self.value = self.value.saturating_add(part.unwrap_or(usize::MAX));
        self.shift = self.shift.saturating_add(7);
        (byte & 0x80 == 0).then_some(self.value)
    }
}

impl Fields {
    fn pass(&mut self, byte: &mut u8) {
        self.at = match self.at {
            At::Start => self.start(*byte),
            At::Index(mut number, kind) => match number.push(*byte) {
                Some(index) => self.indexed(index, kind),
                None => At::Index(number, kind),
            },
            At::String(part) => {
                let huffman = *byte & 0x80 != 0;
                match Number::begin(*byte, 7) {
                    (length, None) => Self::string(part, length, huffman),
                    (_, Some(number)) => At::Length(number, part, huffman),
                }
            }
            At::Length(mut number, part, huffman) => match number.push(*byte) {
                Some(length) => Self::string(part, length, huffman),
                None => At::Length(number, part, huffman),
            },
            At::Bytes {
                of,
                length,
                done,
                huffman,
            } => {
                match of {
                    Part::Name => {
                        let same = !huffman && AUTHORITY.get(done) == Some(byte);
                        self.authority &= same && length == AUTHORITY.len();
                    }
                    Part::Value if self.authority && !huffman => *byte = accepted(*byte),
                    Part::Value => {}
                }
                match done + 1 == length {
                    true => Self::after(of),
                    false => At::Bytes {
                        of,
                        length,
                        done: done + 1,
                        huffman,
                    },
                }
            }
        };
    }

    fn start(&mut self, byte: u8) -> At {
        let (bits, kind) = match byte.leading_zeros() {
            0 => (7, Kind::Whole),
            1 => (6, Kind::Name),
            // The size of the table.
            2 => (5, Kind::Whole),
            _ => (4, Kind::Name),
        };
        match Number::begin(byte, bits) {
            (index, None) => self.indexed(index, kind),
            (_, Some(number)) => At::Index(number, kind),
        }
    }

    fn indexed(&mut self, index: usize, kind: Kind) -> At {
        match (kind, index) {
            (Kind::Whole, _) => At::Start,
            (Kind::Name, 0) => {
                self.authority = true;
                At::String(Part::Name)
            }
            // 1 is `:authority` in the table that both sides have from the beginning.
            (Kind::Name, _) => {
                self.authority = index == 1;
                At::String(Part::Value)
            }
        }
    }

    fn string(of: Part, length: usize, huffman: bool) -> At {
        match length {
            0 => Self::after(of),
            _ => At::Bytes {
                of,
                length,
                done: 0,
                huffman,
            },
        }
    }

    fn after(part: Part) -> At {
        match part {
            Part::Name => At::String(Part::Value),
            Part::Value => At::Start,
        }
    }
}

/// What stands for this byte of an authority.
fn accepted(byte: u8) -> u8 {
    match byte {
        b'-' | b'.' | b'_' | b':' | b'[' | b']' | b'@' => byte,
        _ if byte.is_ascii_alphanumeric() => byte,
        _ => b'-',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &[u8] = b"run%2Fcsi.sock";
    const READ: &[u8] = b"run-2Fcsi.sock";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// `:method: POST`, the authority, a header of another name with the same value, and a field
    /// with a name from the dynamic table.
    fn block(authority: &[u8], name: &[u8]) -> Vec<u8> {
        let length = [u8::try_from(SENT.len()).unwrap()];
        let other = [&[0x40, 1, b'x'], &length[..], SENT].concat();
        let from_table = [&[0x7f, 0x80, 0x01], &length[..], SENT].concat();
        [&[0x83], name, &length, authority, &other, &from_table].concat()
    }

    const NAMES: [&[u8]; 4] = [&[0x41], &[0x01], &[0x11], b"\x40\x0a:authority"];

    /// A connection of these frames, and what is to be made of it.
    fn pass(sent: &[Vec<u8>], read: &[Vec<u8>]) {
        let whole = |frames: &[Vec<u8>]| [&[b'P'; PREFACE][..], &frames.concat()].concat();
        let (sent, read) = (whole(sent), whole(read));
        // In one read, and byte by byte.
        for size in [sent.len(), 1, 7] {
            let (mut frames, mut bytes) = (Frames::default(), sent.clone());
            bytes.chunks_mut(size).for_each(|some| frames.pass(some));
            assert_eq!(bytes, read, "by {size}");
        }
    }

    #[test]
    fn a_path_for_an_authority_becomes_a_host_and_nothing_else_changes() {
        let settings = frame(4, 0, &[0, 4, 0, 0, 0, 9]);
        let data = frame(0, 1, &block(SENT, &[0x41]));
        for name in NAMES {
            let with = |authority| {
                let block = block(authority, name);
                let plain = frame(HEADERS, 4, &block);
                let padded = [&[3, 0, 0, 0, 0, 9], &block[..], &[0x41, 1, b'%']].concat();
                let (one, two) = block.split_at(block.len() / 3);
                vec![
                    settings.clone(),
                    plain,
                    data.clone(),
                    frame(HEADERS, 4 | PADDED | PRIORITY, &padded),
                    frame(HEADERS, 0, one),
                    frame(CONTINUATION, 4, two),
                    frame(HEADERS, 4, &[]),
                    data.clone(),
                ]
            };
            pass(&with(SENT), &with(READ));
        }
    }

    #[test]
    fn what_is_understood_is_left_as_it_is() {
        for authority in [&b"localhost"[..], b"[::1]:80", b"a.b-c:50051", b"u@h"] {
            let length = u8::try_from(authority.len()).unwrap();
            let sent = frame(HEADERS, 4, &[&[0x41, length], authority].concat());
            pass(std::slice::from_ref(&sent), std::slice::from_ref(&sent));
        }
        // In Huffman code, whatever it says.
        let coded = frame(HEADERS, 4, b"\x41\x83%%%");
        pass(std::slice::from_ref(&coded), std::slice::from_ref(&coded));
    }

    #[test]
    fn numbers_beyond_all_bounds_do_no_harm() {
        let huge = [&[0x7f][..], &[0xff; 40], &[0x7f, 0x7f], &[0xff; 40], b"%%"].concat();
        let sent = frame(HEADERS, 4, &huge);
        pass(std::slice::from_ref(&sent), std::slice::from_ref(&sent));
    }
}
