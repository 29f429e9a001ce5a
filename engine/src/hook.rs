//! The hooks a packet passes, in the kernel's order and with its priorities.
//!
//! A table, not a hard-wired call chain: it can be printed (`clashtrack hooks`), and a test
//! sees that nothing runs after confirm.
//!
//! Source: `nf_conntrack_proto.c`, `nf_nat_proto.c` (the hook tables), uapi `netfilter_ipv4.h`.

use crate::addr::Family;
use crate::nat::range::Manip;

/// The five places of the network stack where hooks are called.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HookPoint {
    /// Every packet that came from a device, before routing.
    PreRouting,
    /// Packets for this host, after routing.
    LocalIn,
    /// Packets that pass through.
    Forward,
    /// Packets that this host sends, before they leave.
    LocalOut,
    /// Every packet that leaves through a device.
    PostRouting,
}

impl HookPoint {
    /// The name as netfilter writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            HookPoint::PreRouting => "PRE_ROUTING",
            HookPoint::LocalIn => "LOCAL_IN",
            HookPoint::Forward => "FORWARD",
            HookPoint::LocalOut => "LOCAL_OUT",
            HookPoint::PostRouting => "POST_ROUTING",
        }
    }

    /// Which end NAT rewrites here (`HOOK2MANIP`).
    #[must_use]
    pub const fn manip(self) -> Manip {
        match self {
            HookPoint::PostRouting | HookPoint::LocalIn => Manip::Source,
            _ => Manip::Destination,
        }
    }
}

/// What a hook does with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HookFunction {
    /// The raw table: NOTRACK and zones.
    Raw,
    /// `nf_conntrack_in`: look the connection up, or begin one.
    ConntrackIn,
    /// The NAT core, destination side.
    DestinationNat,
    /// The NAT core, source side.
    SourceNat,
    /// `nf_confirm`: put the connection into the table.
    Confirm,
}

impl HookFunction {
    /// The name in `clashtrack hooks`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            HookFunction::Raw => "raw (NOTRACK, zones)",
            HookFunction::ConntrackIn => "conntrack in",
            HookFunction::DestinationNat => "destination NAT",
            HookFunction::SourceNat => "source NAT",
            HookFunction::Confirm => "conntrack confirm",
        }
    }
}

/// One registered hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hook {
    /// Where.
    pub point: HookPoint,
    /// When, among those of the same place: smaller runs earlier.
    pub priority: i32,
    /// What.
    pub function: HookFunction,
}

/// `NF_IP_PRI_RAW`.
pub const PRIORITY_RAW: i32 = -300;
/// `NF_IP_PRI_CONNTRACK`.
pub const PRIORITY_CONNTRACK: i32 = -200;
/// `NF_IP_PRI_NAT_DST`.
pub const PRIORITY_NAT_DST: i32 = -100;
/// `NF_IP_PRI_FILTER`: nothing of ours is here; tests park packets at it.
pub const PRIORITY_FILTER: i32 = 0;
/// `NF_IP_PRI_NAT_SRC`.
pub const PRIORITY_NAT_SRC: i32 = 100;
/// `NF_IP_PRI_CONNTRACK_CONFIRM`: the last of all.
pub const PRIORITY_CONFIRM: i32 = i32::MAX;

/// All hooks, in the order in which they run at each place. The same for both families.
pub const HOOKS: &[Hook] = &[
    Hook {
        point: HookPoint::PreRouting,
        priority: PRIORITY_RAW,
        function: HookFunction::Raw,
    },
    Hook {
        point: HookPoint::PreRouting,
        priority: PRIORITY_CONNTRACK,
        function: HookFunction::ConntrackIn,
    },
    Hook {
        point: HookPoint::PreRouting,
        priority: PRIORITY_NAT_DST,
        function: HookFunction::DestinationNat,
    },
    Hook {
        point: HookPoint::LocalIn,
        priority: PRIORITY_NAT_SRC,
        function: HookFunction::SourceNat,
    },
    Hook {
        point: HookPoint::LocalIn,
        priority: PRIORITY_CONFIRM,
        function: HookFunction::Confirm,
    },
    Hook {
        point: HookPoint::LocalOut,
        priority: PRIORITY_RAW,
        function: HookFunction::Raw,
    },
    Hook {
        point: HookPoint::LocalOut,
        priority: PRIORITY_CONNTRACK,
        function: HookFunction::ConntrackIn,
    },
    Hook {
        point: HookPoint::LocalOut,
        priority: PRIORITY_NAT_DST,
        function: HookFunction::DestinationNat,
    },
    Hook {
        point: HookPoint::PostRouting,
        priority: PRIORITY_NAT_SRC,
        function: HookFunction::SourceNat,
    },
    Hook {
        point: HookPoint::PostRouting,
        priority: PRIORITY_CONFIRM,
        function: HookFunction::Confirm,
    },
];

/// Families whose packets pass [`HOOKS`] today.
pub const HOOK_FAMILIES: &[Family] = &[Family::Ipv4];

/// The hooks of one place, in the order in which they run.
pub fn hooks_at(point: HookPoint) -> impl Iterator<Item = &'static Hook> {
    HOOKS.iter().filter(move |hook| hook.point == point)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINTS: [HookPoint; 5] = [
        HookPoint::PreRouting,
        HookPoint::LocalIn,
        HookPoint::Forward,
        HookPoint::LocalOut,
        HookPoint::PostRouting,
    ];

    #[test]
    fn hooks_stand_in_the_order_of_their_priorities() {
        for point in POINTS {
            let priorities: Vec<i32> = hooks_at(point).map(|hook| hook.priority).collect();
            assert!(priorities.is_sorted(), "{point:?}: {priorities:?}");
        }
    }

    #[test]
    fn nothing_runs_after_confirm() {
        for point in POINTS {
            let functions: Vec<_> = hooks_at(point).map(|hook| hook.function).collect();
            if let Some(at) = functions.iter().position(|&f| f == HookFunction::Confirm) {
                assert_eq!(at, functions.len() - 1, "{point:?}: {functions:?}");
            }
        }
    }

    #[test]
    fn a_packet_meets_confirm_wherever_it_leaves_the_stack() {
        let places: Vec<_> = HOOKS
            .iter()
            .filter(|h| h.function == HookFunction::Confirm)
            .map(|h| h.point)
            .collect();
        assert_eq!(places, [HookPoint::LocalIn, HookPoint::PostRouting]);
    }
}
