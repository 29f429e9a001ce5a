//! ICMP errors about a translated connection: the packet that they quote is turned back into
//! what its sender sent, or its receiver saw.
//!
//! Source: `nf_nat_icmp_reply_translation` (nf_nat_proto.c).

use super::range::Manip;
use super::rewrite::{Untranslatable, rewrite};
use crate::packet::checksum::{checksum, fold, replace16, sum};
use crate::packet::ipv4::Ipv4Header;
use crate::proto::icmp::quoted_header;
use crate::status::Status;
use crate::tuple::{Direction, Tuple};

/// Where the quoted packet begins, from the ICMP header.
const ICMP_HEADER_BYTES: usize = 8;
const ICMP_CHECKSUM: std::ops::Range<usize> = 2..4;
const ICMP_REDIRECT: u8 = 5;

/// What of the error's connection matters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ErrorSubject {
    pub(crate) status: Status,
    /// The error's own direction.
    pub(crate) direction: Direction,
    /// The connection's tuple of the direction opposite to the error's: that of the quoted packet.
    pub(crate) quoted: Tuple,
}

/// Translates an ICMP error at a place that rewrites `manip`: first the packet that it quotes,
/// at its other end, then the error's own address.
pub(crate) fn translate_error(
    bytes: &mut [u8],
    header: &Ipv4Header,
    subject: &ErrorSubject,
    manip: Manip,
    cut: bool,
) -> Result<(), Untranslatable> {
    let icmp = header.l4_mut(bytes);
    if icmp.len() < ICMP_HEADER_BYTES || !cut && checksum(icmp, 0) != 0 {
        return Err(Untranslatable);
    }
    if icmp[0] == ICMP_REDIRECT && !is_left_alone(subject.status) {
        // Where a redirect would lead is wrong on the other side of a translation.
        return Err(Untranslatable);
    }
    if !subject
        .status
        .intersects(manip.nat_bit_of(subject.direction))
    {
        return Ok(());
    }
    translate_quoted(icmp, &subject.quoted, manip.other(), cut)?;
    let outer = subject.quoted.invert().ok_or(Untranslatable)?;
    rewrite(bytes, header, &outer, manip, cut)
}

fn is_left_alone(status: Status) -> bool {
    status.contains(Status::NAT_DONE_MASK) && !status.intersects(Status::NAT_MASK)
}

/// Rewrites the quoted packet, and brings the ICMP checksum along by what changed: it was
/// right before, and bytes that the capture lost have not changed.
fn translate_quoted(
    icmp: &mut [u8],
    target: &Tuple,
    manip: Manip,
    cut: bool,
) -> Result<(), Untranslatable> {
    let (head, quoted) = icmp.split_at_mut(ICMP_HEADER_BYTES);
    // The same reading as the one that found the connection.
    let header = quoted_header(quoted).ok_or(Untranslatable)?;
    let before = fold(sum(quoted));
    rewrite(quoted, &header, target, manip, cut)?;
    let old_check = u16::from_be_bytes([head[2], head[3]]);
    let check = replace16(old_check, before, fold(sum(quoted)));
    head[ICMP_CHECKSUM].copy_from_slice(&check.to_be_bytes());
    Ok(())
}
