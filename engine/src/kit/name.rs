//! Short names for keys, so that a history can be read.

use std::fmt;
use std::net::Ipv6Addr;

use crate::addr::{Addr, Family};
use crate::table::key::FlowKey;
use crate::tuple::{Protocol, Tuple};

/// A key: a tuple of that number, or its inverse, in one of two zones.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) tcp: bool,
    pub(crate) number: u16,
    pub(crate) inverse: bool,
    pub(crate) zone: u16,
}

impl Name {
    /// A UDP tuple in zone 0.
    pub(crate) fn udp(number: u16) -> Name {
        Name {
            tcp: false,
            number,
            inverse: false,
            zone: 0,
        }
    }

    /// The key that answers to it.
    pub(crate) fn answer(self) -> Name {
        Name {
            inverse: !self.inverse,
            ..self
        }
    }

    /// As a table's key.
    pub(crate) fn key<K: FlowKey>(self) -> K {
        let tuple = Tuple {
            src: address(K::FAMILY, 0x0a00_0001 + u32::from(self.number)),
            dst: address(K::FAMILY, 0xc612_0001),
            src_key: 1024 + self.number,
            dst_key: 53,
            family: K::FAMILY,
            protocol: if self.tcp {
                Protocol::TCP
            } else {
                Protocol::UDP
            },
        };
        let tuple = if self.inverse {
            tuple.invert().expect("a tuple with ports has an inverse")
        } else {
            tuple
        };
        K::pack(&tuple, self.zone)
    }
}

fn address(family: Family, number: u32) -> Addr {
    match family {
        Family::Ipv4 => Addr::from_u32(number),
        // 2001:db8::/32, of the documentation networks (RFC 3849).
        Family::Ipv6 => Addr::v6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(number))),
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.tcp { "tcp" } else { "udp" };
        write!(f, "{protocol}{}", self.number)?;
        if self.inverse {
            f.write_str("'")?;
        }
        if self.zone != 0 {
            write!(f, "@zone{}", self.zone)?;
        }
        Ok(())
    }
}
