//! A bounded window on a stream: looks ahead at a record before it is taken, and knows
//! at which byte of the stream it stands.
//!
//! Its memory is fixed when it is made. No length that a file claims makes it grow.

use std::io::{self, ErrorKind, Read};

/// Bytes that can be looked at in one piece: the longest packet ([`super::RECORD_BYTES_MAX`])
/// with room for the options of a pcapng block.
pub(super) const WINDOW_BYTES: usize = 512 * 1024;

/// The window. `position` counts from the first byte of the stream.
#[derive(Debug)]
pub(super) struct Window<R> {
    reader: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    position: u64,
    exhausted: bool,
}

impl<R: Read> Window<R> {
    pub(super) fn new(reader: R) -> Window<R> {
        Window {
            reader,
            buffer: vec![0; WINDOW_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            position: 0,
            exhausted: false,
        }
    }

    /// The byte of the stream that is next.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next `wanted` bytes, not taken; fewer only where the stream ends.
    pub(super) fn peek(&mut self, wanted: usize) -> io::Result<&[u8]> {
        debug_assert!(wanted <= WINDOW_BYTES);
        if self.end - self.start < wanted && self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        while self.end - self.start < wanted && !self.exhausted {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.exhausted = true,
                Ok(n) => self.end += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let end = self.end.min(self.start + wanted);
        Ok(&self.buffer[self.start..end])
    }

    /// Takes `count` bytes, however many; false where the stream ends before.
    pub(super) fn skip(&mut self, count: u64) -> io::Result<bool> {
        let mut left = count;
        while left > 0 {
            let step = left.min(WINDOW_BYTES as u64) as usize;
            let there = self.peek(step)?.len();
            self.start += there;
            self.position += there as u64;
            left -= there as u64;
            if there < step {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that gives a byte at a time, as a slow pipe does.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let n = self.0.len().min(into.len()).min(1);
            into[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn a_slow_stream_is_read_until_the_wanted_bytes_are_there() {
        let mut window = Window::new(Trickle(b"abcdefgh"));
        assert_eq!(window.peek(3).unwrap(), b"abc");
        assert!(window.skip(2).unwrap());
        assert_eq!(window.peek(4).unwrap(), b"cdef");
        assert_eq!(window.position(), 2);
        assert!(!window.skip(100).unwrap());
        assert_eq!(window.position(), 8);
        assert_eq!(window.peek(4).unwrap(), b"");
    }
}
