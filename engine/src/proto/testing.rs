//! What the trackers' tests share: one connection, driven packet by packet with real bytes.
//!
//! [`Flow`] does the little that `conntrack_in` and confirm do around a tracker: relation,
//! SEEN_REPLY after the tracker, an absolute deadline at the first accept.

use super::{Action, Outcome, Tracked, track};
use crate::config::Sysctls;
use crate::event::Changes;
use crate::hook::HookPoint;
use crate::packet::ipv4::Ipv4Header;
use crate::status::{CtInfo, Status};
use crate::table::key::{FlowKey, KeyV4};
use crate::table::slab::{EntryId, FreeCache, Slab, TrackerCell};
use crate::time::{Nanos, SECOND};
use crate::tuple::{Direction, Protocol};

/// The client and the server of all tests.
pub(super) const ENDS: [[u8; 4]; 2] = [[10, 0, 0, 1], [198, 51, 100, 2]];
/// Their ports.
pub(super) const PORTS: [u16; 2] = [1234, 4321];

/// A packet of any protocol from a side; the IP header's checksum is left out, nobody reads it.
pub(super) fn ipv4(from: Direction, protocol: Protocol, l4: &[u8]) -> Vec<u8> {
    let total = (20 + l4.len()) as u16;
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol.0, 0, 0];
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes.extend(ENDS[from.index()]);
    bytes.extend(ENDS[from.other().index()]);
    bytes.extend(l4);
    bytes
}

/// The ports of a packet from a side, in the order of the header.
pub(super) fn ports(from: Direction) -> [u8; 4] {
    let [a, b] = PORTS[from.index()].to_be_bytes();
    let [c, d] = PORTS[from.other().index()].to_be_bytes();
    [a, b, c, d]
}

/// A connection that one test drives.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) sysctls: Sysctls,
    pub(super) now: Nanos,
    pub(super) hook: HookPoint,
    slab: Slab<KeyV4>,
    cache: FreeCache,
    id: Option<EntryId>,
}

impl Flow {
    /// Nothing yet. Checksums are not verified, as at `LOCAL_OUT`.
    pub(super) fn new() -> Flow {
        Flow {
            sysctls: Sysctls::default(),
            now: 1000 * SECOND,
            hook: HookPoint::LocalOut,
            slab: Slab::new(8, true),
            cache: FreeCache::new(),
            id: None,
        }
    }

    /// Is there a connection?
    pub(super) fn exists(&self) -> bool {
        self.id.is_some()
    }

    pub(super) fn status(&self) -> Status {
        self.id
            .map_or(Status::empty(), |id| self.slab.entry(id).status())
    }

    pub(super) fn set_status(&self, bits: Status) {
        self.slab.entry(self.id.unwrap()).set_status(bits);
    }

    /// Whole seconds left.
    pub(super) fn left(&self) -> u64 {
        self.slab.entry(self.id.unwrap()).remaining(self.now) / SECOND
    }

    /// Packets that a direction was counted.
    pub(super) fn packets(&self, direction: Direction) -> u64 {
        let traffic = self.slab.traffic(self.id.unwrap(), direction);
        traffic.unwrap().totals().0
    }

    pub(super) fn tracker(&self) -> &TrackerCell {
        self.slab.tracker(self.id.unwrap())
    }

    /// The tuple of the connection's first packet.
    pub(super) fn original_source_port(&self) -> u16 {
        let entry = self.slab.entry(self.id.unwrap());
        entry.key(Direction::Original).tuple().src_key
    }

    fn relation(&self, key: KeyV4) -> Option<CtInfo> {
        let entry = self.slab.entry(self.id?);
        if entry.key(Direction::Reply) == key {
            Some(CtInfo::EstablishedReply)
        } else if entry.key(Direction::Original) != key {
            None
        } else if entry.status().contains(Status::SEEN_REPLY) {
            Some(CtInfo::Established)
        } else {
            Some(CtInfo::New)
        }
    }

    fn forget(&mut self) {
        if let Some(id) = self.id.take() {
            self.slab.release(&mut self.cache, id);
        }
    }

    /// Shows a packet to its tracker, and does with the connection what that says.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Outcome {
        let header = Ipv4Header::parse(bytes, false).expect("the test made a whole packet");
        let tuple = header.tuple(bytes).expect("the test's packet has a tuple");
        let key = KeyV4::pack(&tuple, 0);
        let known = self.relation(key);
        let (id, ctinfo) = match (self.id, known) {
            (Some(id), Some(ctinfo)) => (id, ctinfo),
            _ => {
                self.forget();
                let id = self.slab.allocate(&mut self.cache).unwrap();
                let reply = tuple.invert().expect("the test's packet can be answered");
                self.slab.entry(id).set_keys(key, KeyV4::pack(&reply, 0));
                self.id = Some(id);
                (id, CtInfo::New)
            }
        };
        let entry = self.slab.entry(id);
        let outcome = track(&Tracked {
            sysctls: &self.sysctls,
            entry,
            tracker: self.slab.tracker(id),
            traffic: self.slab.traffic(id, ctinfo.direction()),
            bytes,
            header: &header,
            truncated: false,
            ctinfo,
            hook: self.hook,
            now: self.now,
        });
        match outcome.action {
            Action::Reopen => {
                self.forget();
                return self.pass(bytes);
            }
            Action::AcceptAndKill => self.forget(),
            Action::Invalid if known.is_none() => self.forget(),
            Action::Invalid => {}
            Action::Accept => {
                if ctinfo == CtInfo::EstablishedReply {
                    entry.set_status(Status::SEEN_REPLY);
                }
                if !entry.status().contains(Status::CONFIRMED) {
                    entry.set_deadline(self.now + entry.deadline());
                    entry.set_status(Status::CONFIRMED);
                }
            }
        }
        outcome
    }

    /// [`Flow::pass`]; true if the packet was not INVALID.
    pub(super) fn accepts(&mut self, bytes: &[u8]) -> bool {
        self.pass(bytes).action != Action::Invalid
    }

    /// [`Flow::pass`] for its events.
    pub(super) fn changes(&mut self, bytes: &[u8]) -> Changes {
        self.pass(bytes).changes
    }

    pub(super) fn wait(&mut self, time: Nanos) {
        self.now += time;
    }
}
