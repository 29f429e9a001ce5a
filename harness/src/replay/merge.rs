//! Several captures as one: the records of all, in the order of their times.
//!
//! Parts of one capture (`tcpdump -C`) and captures of several devices come out alike.

use std::io::Read;

use crate::capture::{Capture, CaptureError, Record};

/// Captures being read side by side. One record of each is held.
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
    /// Reads the first record of each.
    #[must_use]
    pub fn new(captures: Vec<Capture<R>>) -> Merge<R> {
        let mut merge = Merge {
            sources: Vec::new(),
            errors: Vec::new(),
        };
        for mut capture in captures {
            let next = read(&mut capture, &mut merge.errors);
            merge.sources.push(Source { capture, next });
        }
        merge
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
        let time = |source: &Source<R>| source.next.as_ref().map(|record| record.timestamp_ns);
        let earliest = self
            .sources
            .iter_mut()
            .filter(|source| source.next.is_some())
            .min_by_key(|source| time(source))?;
        let record = earliest.next.take();
        earliest.next = read(&mut earliest.capture, &mut self.errors);
        record
    }
}

fn read<R: Read>(capture: &mut Capture<R>, errors: &mut Vec<CaptureError>) -> Option<Record> {
    match capture.next()? {
        Ok(record) => Some(record),
        Err(error) => {
            errors.push(error);
            None
        }
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
