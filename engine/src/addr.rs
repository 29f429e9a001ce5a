//! Network addresses and families, in the one shape that tuples use.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Network-layer family; the numbers are Linux's `AF_INET` and `AF_INET6`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    Ipv4 = 2,
    /// IPv6.
    Ipv6 = 10,
}

/// A network address: 16 bytes in wire order, of which IPv4 uses the first four
/// and leaves the rest zero (`union nf_inet_addr`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Addr([u8; 16]);

impl Addr {
    /// All zero: `0.0.0.0` and `::`.
    pub const UNSPECIFIED: Addr = Addr([0; 16]);

    /// An IPv4 address.
    #[must_use]
    pub const fn v4(a: Ipv4Addr) -> Addr {
        let [w, x, y, z] = a.octets();
        Addr([w, x, y, z, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// An IPv4 address from its number in host order.
    #[must_use]
    pub const fn from_u32(bits: u32) -> Addr {
        Addr::v4(Ipv4Addr::from_bits(bits))
    }

    /// An IPv6 address.
    #[must_use]
    pub const fn v6(a: Ipv6Addr) -> Addr {
        Addr(a.octets())
    }

    /// The first four bytes as an IPv4 address.
    #[must_use]
    pub const fn as_v4(self) -> Ipv4Addr {
        let [w, x, y, z, ..] = self.0;
        Ipv4Addr::new(w, x, y, z)
    }

    /// The first four bytes as a number in host order: how IPv4 ranges compare.
    #[must_use]
    pub const fn to_u32(self) -> u32 {
        self.as_v4().to_bits()
    }

    /// As the standard library's type, for printing and parsing.
    #[must_use]
    pub fn to_ip(self, family: Family) -> IpAddr {
        match family {
            Family::Ipv4 => IpAddr::V4(self.as_v4()),
            Family::Ipv6 => IpAddr::V6(Ipv6Addr::from(self.0)),
        }
    }

    /// The 16 bytes in wire order.
    #[must_use]
    pub const fn octets(self) -> [u8; 16] {
        self.0
    }

    /// The address as four 32-bit words *as stored*, read in this processor's
    /// byte order: the form in which the kernel's `jhash2` sees it.
    #[must_use]
    pub fn words_as_stored(self) -> [u32; 4] {
        let b = self.0;
        [
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ]
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(a: Ipv4Addr) -> Addr {
        Addr::v4(a)
    }
}

impl From<IpAddr> for Addr {
    fn from(a: IpAddr) -> Addr {
        match a {
            IpAddr::V4(a) => Addr::v4(a),
            IpAddr::V6(a) => Addr::v6(a),
        }
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0[4..].iter().all(|&b| b == 0) {
            write!(f, "{}", self.as_v4())
        } else {
            write!(f, "{}", Ipv6Addr::from(self.0))
        }
    }
}
