//! Several captures as one: the records of all, in the order of their times.
//!
//! Parts of one capture (`tcpdump -C`) and captures of several devices come out alike.

use std::io::Read;

use crate::capture::{Capture, CaptureError, Record};

/// Captures being read side by side. At most one record of each is held, and none is read
/// before it is asked for: a live capture is followed without delay.
#[derive(Debug)]
pub struct Merge<R> {
    sources: Vec<Source<R>>,
    errors: Vec<CaptureError>,
}

#[derive(Debug)]
struct Source<R> {
    capture: Capture<R>,
    next: Option<Record>,
}

impl<R: Read> Merge<R> {
    /// Captures whose records are still to be read.
    #[must_use]
    pub fn new(captures: Vec<Capture<R>>) -> Merge<R> {
        let sources = captures
            .into_iter()
            .map(|capture| Source {
                capture,
                next: None,
            })
            .collect();
        Merge {
            sources,
            errors: Vec::new(),
        }
    }

    /// Bytes read so far, of all.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.sources
            .iter()
            .map(|source| source.capture.position())
            .sum()
    }

    /// What ended captures before their end, each with its place.
    #[must_use]
    pub fn into_errors(self) -> Vec<CaptureError> {
        self.errors
    }
}

impl<R: Read> Iterator for Merge<R> {
    type Item = Record;

    /// The earliest record; of equal ones that of the capture that was named first.
    fn next(&mut self) -> Option<Record> {
        for source in self.sources.iter_mut().filter(|s| s.next.is_none()) {
            match source.capture.next() {
                Some(Ok(record)) => source.next = Some(record),
                Some(Err(error)) => self.errors.push(error),
                None => {}
            }
        }
        let time = |source: &Source<R>| source.next.as_ref().map(|record| record.timestamp_ns);
        self.sources
            .iter_mut()
            .filter(|source| source.next.is_some())
            .min_by_key(|source| time(source))?
            .next
            .take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A capture of raw IP, a record a second given.
    fn capture(name: &str, seconds: &[u32]) -> Vec<u8> {
        let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0];
        for word in [0, 0, 65_535, 101] {
            file.extend(u32::to_le_bytes(word));
        }
        for &second in seconds {
            for word in [second, 0, name.len() as u32, name.len() as u32] {
                file.extend(u32::to_le_bytes(word));
            }
            file.extend(name.as_bytes());
        }
        file
    }

    #[test]
    fn records_of_several_captures_come_in_the_order_of_their_times() {
        let (a, b) = (capture("a", &[1, 3, 5]), capture("b", &[2, 3, 9]));
        let captures = [&a, &b].map(|file| Capture::new("x", &file[..]).unwrap());
        let seen: String = Merge::new(captures.into())
            .map(|record| String::from_utf8(record.bytes).unwrap())
            .collect();
        assert_eq!(seen, "ababab");
    }

    #[test]
    fn a_capture_that_breaks_off_does_not_end_the_others() {
        let (mut a, b) = (capture("a", &[1, 3, 5]), capture("b", &[2, 4, 6]));
        a.pop();
        let captures = [&a, &b].map(|file| Capture::new("x", &file[..]).unwrap());
        let mut merge = Merge::new(captures.into());
        assert_eq!(merge.by_ref().count(), 5);
        let errors = merge.into_errors();
        assert!(
            matches!(errors[..], [CaptureError::CutOff { .. }]),
            "{errors:?}"
        );
    }
}
