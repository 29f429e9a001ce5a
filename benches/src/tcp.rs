//! TCP: what the tracker costs a segment once its connection is found.
//!
//! Dimensions: where in its life the connection is, and whether the segment is in the window. The tracker is called by
//! itself, without lookup and NAT. We would change the code if a segment that is refused cost more than one that fits.

use std::hint::black_box;
use std::net::Ipv4Addr;

use clashtrack_engine::config::Sysctls;
use clashtrack_engine::hook::HookPoint;
use clashtrack_engine::packet::ipv4::Ipv4Header;
use clashtrack_engine::proto::tcp::TcpConntrackState;
use clashtrack_engine::proto::{Action, Tracked, track};
use clashtrack_engine::status::{CtInfo, Status};
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::table::lockfree::Isa;
use clashtrack_engine::table::slab::{EntryId, FreeCache, Slab};

use crate::NOW;
use crate::operation::{Operation, Pass, next_operation};
use crate::packets::{ACK, End, FIN, SYN, tcp, tuple_of};

/// The operations of this room.
pub const OPERATIONS: &[Operation] = &[
    operation(
        "what_does_tracking_a_segment_cost",
        "data_and_its_ack",
        data_and_ack,
    ),
    operation(
        "what_does_tracking_a_segment_cost",
        "the_same_ack_again",
        same_ack,
    ),
    operation(
        "what_does_tracking_a_segment_cost",
        "outside_the_window",
        outside,
    ),
    operation(
        "what_does_tracking_a_whole_connection_cost",
        "handshake_and_close",
        whole_connection,
    ),
];

const fn operation(
    question: &'static str,
    variant: &'static str,
    prepare: fn(Isa) -> Pass,
) -> Operation {
    Operation {
        question,
        variant,
        has_vectors: false,
        prepare,
    }
}

const CLIENT: End = (Ipv4Addr::new(10, 0, 0, 11), 1_234);
const SERVER: End = (Ipv4Addr::new(198, 51, 100, 21), 443);
/// Segments of a pass.
const SEGMENTS: usize = 256;
/// Payload of a data segment, in bytes.
const PAYLOAD: u32 = 100;

/// A segment, parsed once; its numbers may be changed, as nobody looks at its checksum at `LOCAL_OUT`.
struct Segment {
    bytes: Vec<u8>,
    header: Ipv4Header,
    ctinfo: CtInfo,
}

impl Segment {
    fn new(ctinfo: CtInfo, flags: u8, seq: u32, ack: u32, length: u32) -> Segment {
        let (from, to) = if ctinfo == CtInfo::EstablishedReply {
            (SERVER, CLIENT)
        } else {
            (CLIENT, SERVER)
        };
        let bytes = tcp(from, to, flags, seq, ack, length as usize);
        let header = Ipv4Header::parse(&bytes, false).expect("a whole packet");
        Segment {
            bytes,
            header,
            ctinfo,
        }
    }

    fn set_numbers(&mut self, seq: u32, ack: u32) {
        self.bytes[24..28].copy_from_slice(&seq.to_be_bytes());
        self.bytes[28..32].copy_from_slice(&ack.to_be_bytes());
    }
}

/// One connection and the little that tracking does around its tracker.
struct Flow {
    sysctls: Sysctls,
    slab: Slab<KeyV4>,
    cache: FreeCache,
    id: EntryId,
}

impl Flow {
    fn new() -> Flow {
        let slab = Slab::new(8, false);
        let mut cache = FreeCache::new();
        let id = slab.allocate(&mut cache).expect("a slab with room");
        let mut flow = Flow {
            sysctls: Sysctls::default(),
            slab,
            cache,
            id,
        };
        flow.set_keys();
        flow
    }

    /// The connection is over; another one has its entry.
    fn begin_again(&mut self) {
        self.slab.release(&mut self.cache, self.id);
        self.id = self
            .slab
            .allocate(&mut self.cache)
            .expect("a slab with room");
        self.set_keys();
    }

    fn set_keys(&mut self) {
        let tuple = tuple_of(&tcp(CLIENT, SERVER, SYN, 0, 0, 0));
        let reply = tuple.invert().expect("a TCP tuple has an inverse");
        let entry = self.slab.entry(self.id);
        entry.set_keys(KeyV4::pack(&tuple, 0), KeyV4::pack(&reply, 0));
    }

    fn track(&self, segment: &Segment, wanted: Action) {
        let entry = self.slab.entry(self.id);
        let outcome = track(&Tracked {
            sysctls: &self.sysctls,
            entry,
            tracker: self.slab.tracker(self.id),
            traffic: None,
            bytes: black_box(&segment.bytes),
            header: &segment.header,
            truncated: false,
            ctinfo: segment.ctinfo,
            hook: HookPoint::LocalOut,
            now: NOW,
        });
        assert_eq!(outcome.action, wanted);
        if segment.ctinfo == CtInfo::New {
            entry.set_status(Status::CONFIRMED);
        } else if segment.ctinfo == CtInfo::EstablishedReply {
            entry.set_status(Status::SEEN_REPLY);
        }
    }

    fn assert_is(&self, state: TcpConntrackState) {
        let is = TcpConntrackState::from_number(self.slab.tracker(self.id).public_state());
        assert_eq!(is, state);
    }

    fn established() -> Flow {
        let flow = Flow::new();
        for segment in &handshake() {
            flow.track(segment, Action::Accept);
        }
        flow.assert_is(TcpConntrackState::Established);
        flow
    }
}

/// SYN of 1000, SYN/ACK of 5000, ACK.
fn handshake() -> [Segment; 3] {
    [
        Segment::new(CtInfo::New, SYN, 1_000, 0, 0),
        Segment::new(CtInfo::EstablishedReply, SYN | ACK, 5_000, 1_001, 0),
        Segment::new(CtInfo::Established, ACK, 1_001, 5_001, 0),
    ]
}

fn data_and_ack(_: Isa) -> Pass {
    let flow = Flow::established();
    let mut seq: u32 = 1_001;
    let mut data = Segment::new(CtInfo::Established, ACK, seq, 5_001, PAYLOAD);
    let mut ack = Segment::new(CtInfo::EstablishedReply, ACK, 5_001, seq, 0);
    Pass::new(SEGMENTS, move || {
        for _ in 0..SEGMENTS / 2 {
            data.set_numbers(seq, 5_001);
            flow.track(&data, Action::Accept);
            next_operation();
            seq = seq.wrapping_add(PAYLOAD);
            ack.set_numbers(5_001, seq);
            flow.track(&ack, Action::Accept);
            next_operation();
        }
        flow.assert_is(TcpConntrackState::Established);
    })
}

fn same_ack(_: Isa) -> Pass {
    let flow = Flow::established();
    let ack = Segment::new(CtInfo::Established, ACK, 1_001, 5_001, 0);
    Pass::new(SEGMENTS, move || {
        for _ in 0..SEGMENTS {
            flow.track(&ack, Action::Accept);
            next_operation();
        }
        flow.assert_is(TcpConntrackState::Established);
    })
}

fn outside(_: Isa) -> Pass {
    let flow = Flow::established();
    let far = Segment::new(CtInfo::Established, ACK, 1_001 + (1 << 24), 5_001, PAYLOAD);
    Pass::new(SEGMENTS, move || {
        for _ in 0..SEGMENTS {
            flow.track(&far, Action::Invalid);
            next_operation();
        }
        flow.assert_is(TcpConntrackState::Established);
    })
}

/// Three segments to open, four to close.
fn whole_connection(_: Isa) -> Pass {
    let mut flow = Flow::new();
    let open = handshake();
    let close = [
        Segment::new(CtInfo::Established, FIN | ACK, 1_001, 5_001, 0),
        Segment::new(CtInfo::EstablishedReply, ACK, 5_001, 1_002, 0),
        Segment::new(CtInfo::EstablishedReply, FIN | ACK, 5_001, 1_002, 0),
        Segment::new(CtInfo::Established, ACK, 1_002, 5_002, 0),
    ];
    Pass::new(32, move || {
        for _ in 0..32 {
            for segment in open.iter().chain(&close) {
                flow.track(segment, Action::Accept);
            }
            flow.assert_is(TcpConntrackState::TimeWait);
            flow.begin_again();
            next_operation();
        }
    })
}
