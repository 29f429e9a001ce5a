//! A connection as seen in one direction: the [`Tuple`], and its inverse.
//!
//! Source: `nf_ct_get_tuple`, `nf_ct_invert_tuple` (nf_conntrack_core.c) and the
//! `*_pkt_to_tuple` functions of each protocol.

use std::fmt;

use crate::addr::{Addr, Family};

/// A transport protocol by its IP protocol number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4 (1).
    pub const ICMP: Protocol = Protocol(1);
    /// TCP (6).
    pub const TCP: Protocol = Protocol(6);
    /// UDP (17).
    pub const UDP: Protocol = Protocol(17);
    /// DCCP (33): has no tracker on Linux 6.18, so it is handled as generic.
    pub const DCCP: Protocol = Protocol(33);
    /// GRE (47).
    pub const GRE: Protocol = Protocol(47);
    /// ICMP for IPv6 (58).
    pub const ICMPV6: Protocol = Protocol(58);
    /// SCTP (132).
    pub const SCTP: Protocol = Protocol(132);
    /// UDP-Lite (136).
    pub const UDPLITE: Protocol = Protocol(136);

    /// Does the tuple of this protocol hold ports?
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(
            self,
            Protocol::TCP | Protocol::UDP | Protocol::UDPLITE | Protocol::SCTP
        )
    }

    /// ICMP of either family.
    #[must_use]
    pub const fn is_icmp(self) -> bool {
        matches!(self, Protocol::ICMP | Protocol::ICMPV6)
    }

    /// Protocols whose unconfirmed loser of a race may be resolved rather than
    /// dropped (`l4proto->allow_clash`; 6.18: UDP, UDP-Lite, GRE and all protocols
    /// without a tracker of their own).
    #[must_use]
    pub const fn allows_clash(self) -> bool {
        !matches!(
            self,
            Protocol::TCP | Protocol::SCTP | Protocol::ICMP | Protocol::ICMPV6
        )
    }

    /// The name as `conntrack -L` prints it; `unknown` where the kernel has none.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::ICMP => "icmp",
            Protocol::TCP => "tcp",
            Protocol::UDP => "udp",
            Protocol::GRE => "gre",
            Protocol::ICMPV6 => "icmpv6",
            Protocol::SCTP => "sctp",
            Protocol::UDPLITE => "udplite",
            _ => "unknown",
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            "unknown" => write!(f, "proto {}", self.0),
            name => f.write_str(name),
        }
    }
}

/// Which side of a connection: the first packet's, or its answer's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Direction {
    /// The direction of the first packet (`IP_CT_DIR_ORIGINAL`).
    Original = 0,
    /// The direction of the answers (`IP_CT_DIR_REPLY`).
    Reply = 1,
}

impl Direction {
    /// The other side.
    #[must_use]
    pub const fn other(self) -> Direction {
        match self {
            Direction::Original => Direction::Reply,
            Direction::Reply => Direction::Original,
        }
    }

    /// 0 for original, 1 for reply.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Addresses, ports or ids, and protocols of a packet, as one direction shows them.
///
/// Two tuples are equal when all fields are. Keys are in host order.
///
/// | protocol | `src_key` | `dst_key` |
/// |---|---|---|
/// | TCP, UDP, UDP-Lite, SCTP | source port | destination port |
/// | ICMP, ICMPv6 | id | type << 8 \| code |
/// | GRE v1 (PPTP) | key | call id |
/// | all others | 0 | 0 |
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, or what stands for it (see the table).
    pub src_key: u16,
    /// Destination port, or what stands for it (see the table).
    pub dst_key: u16,
    /// Network-layer family.
    pub family: Family,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl Tuple {
    /// ICMP type, from the destination key.
    #[must_use]
    pub const fn icmp_type(&self) -> u8 {
        (self.dst_key >> 8) as u8
    }

    /// ICMP code, from the destination key.
    #[must_use]
    pub const fn icmp_code(&self) -> u8 {
        (self.dst_key & 0xff) as u8
    }

    /// The tuple that the answer to a packet of this tuple carries
    /// (`nf_ct_invert_tuple`): addresses and keys swapped; for ICMP the id stays and
    /// the type is mapped. `None` for an ICMP type that has no answer.
    #[must_use]
    pub fn invert(&self) -> Option<Tuple> {
        let (src_key, dst_key) = if self.protocol.is_icmp() {
            let inverse = match self.protocol {
                Protocol::ICMP => invert_icmp_type(self.icmp_type())?,
                _ => invert_icmpv6_type(self.icmp_type())?,
            };
            (
                self.src_key,
                u16::from(inverse) << 8 | u16::from(self.icmp_code()),
            )
        } else {
            (self.dst_key, self.src_key)
        };
        Some(Tuple {
            src: self.dst,
            dst: self.src,
            src_key,
            dst_key,
            ..*self
        })
    }
}

/// ICMP types that come in pairs of question and answer (`icmp_invmap`).
fn invert_icmp_type(icmp_type: u8) -> Option<u8> {
    Some(match icmp_type {
        8 => 0,
        0 => 8,
        13 => 14,
        14 => 13,
        15 => 16,
        16 => 15,
        17 => 18,
        18 => 17,
        _ => return None,
    })
}

/// ICMPv6 types that come in pairs of question and answer (`icmpv6_invmap`).
fn invert_icmpv6_type(icmp_type: u8) -> Option<u8> {
    Some(match icmp_type {
        128 => 129,
        129 => 128,
        139 => 140,
        140 => 139,
        _ => return None,
    })
}

/// As `conntrack -L` prints one direction: `src=… dst=… sport=… dport=…`.
impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "src={} dst={}",
            self.src.to_ip(self.family),
            self.dst.to_ip(self.family)
        )?;
        match self.protocol {
            p if p.has_ports() => write!(f, " sport={} dport={}", self.src_key, self.dst_key),
            p if p.is_icmp() => {
                write!(
                    f,
                    " type={} code={} id={}",
                    self.icmp_type(),
                    self.icmp_code(),
                    self.src_key
                )
            }
            Protocol::GRE => write!(f, " srckey={:#x} dstkey={:#x}", self.src_key, self.dst_key),
            // The conntrack tool knows DCCP by itself, and prints the ports it was not given.
            Protocol::DCCP => write!(f, " sport=0 dport=0"),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {self}", self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tuples() -> impl Strategy<Value = Tuple> {
        (
            any::<u32>(),
            any::<u32>(),
            any::<u16>(),
            any::<u16>(),
            any::<u8>(),
        )
            .prop_map(|(src, dst, src_key, dst_key, protocol)| Tuple {
                src: Addr::from_u32(src),
                dst: Addr::from_u32(dst),
                src_key,
                dst_key,
                family: Family::Ipv4,
                protocol: Protocol(protocol),
            })
    }

    proptest! {
        #[test]
        fn inverting_twice_gives_the_tuple_back(t in tuples()) {
            if let Some(inverse) = t.invert() {
                prop_assert_eq!(inverse.invert(), Some(t));
            } else {
                prop_assert!(t.protocol.is_icmp(), "only ICMP types may have no inverse");
            }
        }

        #[test]
        fn every_question_type_of_icmp_is_answered(id in any::<u16>(), code in any::<u8>()) {
            for (question, answer) in [(8u16, 0u8), (13, 14), (15, 16), (17, 18)] {
                let t = Tuple {
                    src: Addr::from_u32(1), dst: Addr::from_u32(2), src_key: id,
                    dst_key: question << 8 | u16::from(code), family: Family::Ipv4, protocol: Protocol::ICMP,
                };
                let inverse = t.invert().unwrap();
                prop_assert_eq!((inverse.icmp_type(), inverse.icmp_code(), inverse.src_key), (answer, code, id));
            }
        }
    }
}
