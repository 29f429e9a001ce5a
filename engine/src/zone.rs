//! Conntrack zones: ids that keep equal tuples apart, for one direction or both.
//!
//! Source: `nf_conntrack_zones.h`.

use crate::tuple::Direction;

/// A conntrack zone as a CT target or template gives it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Zone {
    /// The zone's number; 0 is the default zone.
    pub id: u16,
    /// The directions that the id holds for; the other one is in zone 0.
    pub directions: ZoneDirections,
}

/// Directions that a zone's id holds for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ZoneDirections {
    /// `zone-orig=`: the original direction alone.
    Original,
    /// `zone-reply=`: the reply direction alone.
    Reply,
    /// `zone=`: both.
    Both,
}

impl Zone {
    /// Zone 0 in both directions: what a packet without a template is in.
    pub const DEFAULT: Zone = Zone {
        id: 0,
        directions: ZoneDirections::Both,
    };

    /// The zone id of the key of `direction` (`nf_ct_zone_id`).
    #[must_use]
    pub const fn id_for(self, direction: Direction) -> u16 {
        match (self.directions, direction) {
            (ZoneDirections::Both, _)
            | (ZoneDirections::Original, Direction::Original)
            | (ZoneDirections::Reply, Direction::Reply) => self.id,
            _ => 0,
        }
    }
}

impl Default for Zone {
    fn default() -> Zone {
        Zone::DEFAULT
    }
}
