//! The pcapng format: blocks, each with its type and its length at both ends.
//!
//! ```text
//! block   type 4 | length 4 | body | length 4          length counts all of it, a multiple of 4
//! SHB     order 4 | major 2 | minor 2 | section 8 | options
//! IDB     link type 2 | 0 2 | longest 4 | options      one an interface, numbered from 0 in each section
//! EPB     interface 4 | time 8 | captured 4 | on the wire 4 | bytes, padded | options
//! PB      interface 2 | drops 2 | time 8 | captured 4 | on the wire 4 | bytes …      (obsolete)
//! SPB     on the wire 4 | bytes, padded                interface 0, no time
//! ```
//! All other blocks are passed over, whatever their length.

use std::io::Read;

use clashtrack_engine::time::Nanos;

use super::link::LinkType;
use super::window::WINDOW_BYTES;
use super::{ByteOrder, CaptureError, RECORD_BYTES_MAX, Record, Source, TIMESTAMP_MAX};

/// Type of the section header, the same in both byte orders.
pub(super) const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
const ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const VERSION_MAJOR: u16 = 1;

const INTERFACE_DESCRIPTION: u32 = 1;
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Type and length at the front, length again at the end.
const BLOCK_BYTES_MIN: usize = 12;
const SECTION_HEADER_BYTES_MIN: usize = 28;
/// Interfaces of a section at most; a file with more is damaged.
const INTERFACES_MAX: usize = 65_536;

/// The section being read.
#[derive(Debug)]
pub(super) struct Pcapng {
    order: ByteOrder,
    interfaces: Vec<Interface>,
    last_timestamp: Nanos,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link_type: Option<LinkType>,
    snap_bytes: u32,
    resolution: Resolution,
    /// Seconds to add to each timestamp (`if_tsoffset`).
    offset_s: i64,
}

/// What a timestamp counts (`if_tsresol`): a unit is 10 or 2 to the power of minus something.
#[derive(Clone, Copy, Debug)]
struct Resolution(u8);

impl Resolution {
    const MICROSECONDS: Resolution = Resolution(6);

    /// Nanoseconds, as far as they fit; a unit finer than that is rounded down.
    fn nanos(self, units: u64) -> i128 {
        const NANOS: u128 = 1_000_000_000;
        let exponent = u32::from(self.0 & 0x7f);
        let units = u128::from(units) * NANOS;
        let nanos = if self.0 & 0x80 != 0 {
            units.checked_shr(exponent).unwrap_or(0)
        } else {
            10u128.checked_pow(exponent).map_or(0, |unit| units / unit)
        };
        // At most 2^64 seconds: about 2^94 ns.
        nanos as i128
    }
}

impl Interface {
    fn timestamp(&self, high: u32, low: u32) -> Nanos {
        let since = self
            .resolution
            .nanos(u64::from(high) << 32 | u64::from(low));
        let at = since + i128::from(self.offset_s) * 1_000_000_000;
        at.clamp(0, i128::from(TIMESTAMP_MAX)) as Nanos
    }
}

impl Pcapng {
    /// Takes the first section header.
    pub(super) fn open<R: Read>(source: &mut Source<R>) -> Result<Pcapng, CaptureError> {
        let mut pcapng = Pcapng {
            order: ByteOrder::Little,
            interfaces: Vec::new(),
            last_timestamp: 0,
        };
        // In the first block every fault means that this is no capture.
        match pcapng.section_header(source) {
            Err(CaptureError::Damaged { what, .. }) => Err(source.not_a_capture(what)),
            Err(CaptureError::CutOff { .. }) => Err(source.not_a_capture("its header is cut off")),
            Err(error) => Err(error),
            Ok(()) => Ok(pcapng),
        }
    }

    /// Takes blocks up to and including the next packet; `None` at the end of the file.
    pub(super) fn next<R: Read>(
        &mut self,
        source: &mut Source<R>,
    ) -> Result<Option<Record>, CaptureError> {
        loop {
            if source.peek(1)?.is_empty() {
                return Ok(None);
            }
            let head = source.record(8)?;
            if head[..4] == SECTION_HEADER {
                self.section_header(source)?;
                continue;
            }
            let (kind, length) = (self.order.word(head, 0), self.order.word(head, 1));
            let length = check_length(source, length, BLOCK_BYTES_MIN)?;
            match kind {
                INTERFACE_DESCRIPTION => {
                    let block = self.block(source, length)?;
                    self.interface(source, &block)?;
                }
                PACKET | SIMPLE_PACKET | ENHANCED_PACKET => {
                    let block = self.block(source, length)?;
                    let record = self.packet(source, kind, &block)?;
                    source.skip(length)?;
                    return Ok(Some(record));
                }
                _ => {}
            }
            source.skip(length)?;
        }
    }

    /// Takes a section header: byte order anew, and no interfaces yet.
    fn section_header<R: Read>(&mut self, source: &mut Source<R>) -> Result<(), CaptureError> {
        let head = source.record(16)?;
        let magic = [head[8], head[9], head[10], head[11]];
        let order = [ByteOrder::Little, ByteOrder::Big]
            .into_iter()
            .find(|order| order.u32(magic) == ORDER_MAGIC);
        let (length, major) = match order {
            Some(order) => (order.word(head, 1), order.u16([head[12], head[13]])),
            None => return Err(source.damaged("its byte order mark is unknown")),
        };
        if major != VERSION_MAJOR {
            return Err(source.damaged(format!("its version is {major}, not {VERSION_MAJOR}")));
        }
        let length = check_length(source, length, SECTION_HEADER_BYTES_MIN)?;
        source.skip(length)?;
        self.order = order.unwrap_or(ByteOrder::Little);
        self.interfaces.clear();
        Ok(())
    }

    /// The body of the block that starts here, which is not taken.
    fn block<R: Read>(&self, source: &mut Source<R>, length: u64) -> Result<Vec<u8>, CaptureError> {
        let Some(length) = usize::try_from(length).ok().filter(|&n| n <= WINDOW_BYTES) else {
            return Err(source.damaged(format!(
                "it claims {length} bytes, more than the {WINDOW_BYTES} that a packet with its options may have"
            )));
        };
        let block = source.record(length)?;
        let again = self.order.word(&block[length - 4..], 0);
        let body = block[8..length - 4].to_vec();
        if again as usize != length {
            return Err(source.damaged(format!(
                "its length is {length} at the front and {again} at the end"
            )));
        }
        Ok(body)
    }

    fn interface<R: Read>(&mut self, source: &Source<R>, body: &[u8]) -> Result<(), CaptureError> {
        let Some((fixed, options)) = body.split_first_chunk::<8>() else {
            return Err(source.damaged("its interface description is too short"));
        };
        if self.interfaces.len() >= INTERFACES_MAX {
            return Err(source.damaged(format!("more than {INTERFACES_MAX} interfaces")));
        }
        let mut interface = Interface {
            link_type: LinkType::from_number(u32::from(self.order.u16([fixed[0], fixed[1]]))),
            snap_bytes: self.order.word(fixed, 1),
            resolution: Resolution::MICROSECONDS,
            offset_s: 0,
        };
        self.interface_options(options, &mut interface);
        self.interfaces.push(interface);
        Ok(())
    }

    /// Options: code 2, length 2, value padded to 4. A list that does not fit ends there.
    fn interface_options(&self, mut options: &[u8], interface: &mut Interface) {
        const END: u16 = 0;
        const RESOLUTION: u16 = 9;
        const OFFSET: u16 = 14;
        while let Some((head, rest)) = options.split_first_chunk::<4>() {
            let code = self.order.u16([head[0], head[1]]);
            let length = usize::from(self.order.u16([head[2], head[3]]));
            let Some(value) = rest.get(..length) else {
                return;
            };
            match (code, value) {
                (END, _) => return,
                (RESOLUTION, &[resolution]) => interface.resolution = Resolution(resolution),
                (OFFSET, &[a, b, c, d, e, f, g, h]) => {
                    let words = [self.order.u32([a, b, c, d]), self.order.u32([e, f, g, h])];
                    let [low, high] = match self.order {
                        ByteOrder::Little => words,
                        ByteOrder::Big => [words[1], words[0]],
                    };
                    interface.offset_s = (u64::from(high) << 32 | u64::from(low)) as i64;
                }
                _ => {}
            }
            options = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }

    fn packet<R: Read>(
        &mut self,
        source: &Source<R>,
        kind: u32,
        body: &[u8],
    ) -> Result<Record, CaptureError> {
        let fixed_bytes = if kind == SIMPLE_PACKET { 4 } else { 20 };
        let Some((fixed, rest)) = body.split_at_checked(fixed_bytes) else {
            return Err(source.damaged("its packet block is too short"));
        };
        let number = match kind {
            SIMPLE_PACKET => 0,
            PACKET => u32::from(self.order.u16([fixed[0], fixed[1]])),
            _ => self.order.word(fixed, 0),
        };
        let Some(interface) = self.interfaces.get(number as usize).copied() else {
            return Err(source.damaged(format!("interface {number} was never described")));
        };
        let (captured, wire) = if kind == SIMPLE_PACKET {
            let wire = self.order.word(fixed, 0);
            let snap = match interface.snap_bytes {
                0 => u32::MAX,
                snap => snap,
            };
            let present = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            (wire.min(snap).min(present), wire)
        } else {
            self.last_timestamp =
                interface.timestamp(self.order.word(fixed, 1), self.order.word(fixed, 2));
            (self.order.word(fixed, 3), self.order.word(fixed, 4))
        };
        let bytes = rest
            .get(..captured as usize)
            .filter(|bytes| bytes.len() <= RECORD_BYTES_MAX);
        let Some(bytes) = bytes else {
            return Err(source.damaged(format!(
                "it claims {captured} captured bytes in a block that has room for {}",
                rest.len().min(RECORD_BYTES_MAX)
            )));
        };
        Ok(Record {
            timestamp_ns: self.last_timestamp,
            link_type: interface.link_type,
            bytes: bytes.to_vec(),
            wire_bytes: u64::from(wire),
            offset: source.window.position(),
        })
    }
}

/// A block's length, if it can be one.
fn check_length<R: Read>(source: &Source<R>, length: u32, min: usize) -> Result<u64, CaptureError> {
    if (length as usize) < min || !length.is_multiple_of(4) {
        return Err(source.damaged(format!(
            "it claims to be {length} bytes long, which is not a multiple of 4 from {min} on"
        )));
    }
    Ok(u64::from(length))
}
