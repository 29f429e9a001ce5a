//! Connections and events as the `conntrack` tool prints them, and as JSON.
//!
//! Whoever reads `conntrack -L` reads these lines: names, order, blanks and rounding
//! (seconds, downwards) are those of conntrack-tools 1.4.7.
//!
//! ```text
//! tcp      6 431999 ESTABLISHED src=… dst=… sport=… dport=… src=… dst=… sport=… dport=… [ASSURED] mark=0 use=1
//! [1795472916.562161]\t    [NEW] tcp      6 120 SYN_SENT src=… dst=… sport=… dport=… [UNREPLIED] src=… …
//! ```
//!
//! Source: the output of the tool; kernel `ctnetlink_fill_info` for what is in it.

use std::fmt::Write;

use clashtrack_engine::event::{Event, Snapshot};
use clashtrack_engine::proto::tcp::TcpConntrackState;
use clashtrack_engine::stats::{ConntrackStats, conntrack_s_line};
use clashtrack_engine::status::Status;
use clashtrack_engine::time::{Nanos, SECOND};
use clashtrack_engine::tuple::{Direction, Protocol, Tuple};
use clashtrack_engine::zone::ZoneDirections;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The state of a connection whose protocol has states.
#[must_use]
pub fn state_name(protocol: Protocol, state: u8) -> Option<&'static str> {
    /// `enum sctp_conntrack`.
    const SCTP: [&str; 9] = [
        "NONE",
        "CLOSED",
        "COOKIE_WAIT",
        "COOKIE_ECHOED",
        "ESTABLISHED",
        "SHUTDOWN_SENT",
        "SHUTDOWN_RECD",
        "SHUTDOWN_ACK_SENT",
        "HEARTBEAT_SENT",
    ];
    match protocol {
        Protocol::TCP => Some(TcpConntrackState::from_number(state).name()),
        Protocol::SCTP => SCTP.get(usize::from(state)).copied(),
        _ => None,
    }
}

/// The name of a protocol as the tool prints it, which knows one more than the kernel.
#[must_use]
pub fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::DCCP => "dccp",
        other => other.name(),
    }
}

/// A line of `conntrack -L`, without a line end.
#[must_use]
pub fn list_line(connection: &Snapshot) -> String {
    let mut line = head(connection, true);
    line.push_str(&tuples(connection, true));
    line.push_str(" mark=0");
    let zone = connection.zone();
    if zone.id != 0 && zone.directions == ZoneDirections::Both {
        push(&mut line, format_args!(" zone={}", zone.id));
    }
    line.push_str(" use=1");
    line
}

/// A line of `conntrack -E -o timestamp`, without a line end; `None` for what the tool never
/// shows (a lost clash).
#[must_use]
pub fn event_line(event: &Event) -> Option<String> {
    let (kind, at, connection) = parts(event)?;
    // Once it is destroyed a connection has no time left, and its traffic is final.
    let destroyed = matches!(event, Event::Destroy(..));
    let mut line = String::new();
    let microseconds = at % SECOND / 1000;
    push(
        &mut line,
        format_args!(
            "[{}.{microseconds:06}]\t{:>9} ",
            at / SECOND,
            format!("[{kind}]")
        ),
    );
    line.push_str(&head(connection, !destroyed));
    line.push_str(&tuples(connection, destroyed));
    Some(line)
}

/// The lines of `conntrack -S`, one a worker, each with its line end.
#[must_use]
pub fn stats_lines(per_cpu: &[ConntrackStats]) -> String {
    let lines = per_cpu.iter().enumerate();
    lines
        .map(|(cpu, stats)| conntrack_s_line(cpu, stats) + "\n")
        .collect()
}

/// Counters by their names.
#[must_use]
pub fn stats_json(stats: &ConntrackStats) -> Map<String, Value> {
    let named = stats.named().into_iter();
    named
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect()
}

/// A connection as `--json` shows it.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct ConnectionJson {
    /// Protocol: `tcp`, `udp`, …, `unknown`.
    pub proto: &'static str,
    /// Its number.
    pub proto_number: u8,
    /// State of a protocol that has states.
    pub state: Option<&'static str>,
    /// Names of the status bits, and `UNREPLIED` where there is no `SEEN_REPLY`.
    pub status: Vec<&'static str>,
    /// Tuple of the first packet.
    pub original: Value,
    /// Tuple of the answers.
    pub reply: Value,
    /// Whole seconds left.
    pub timeout_s: u64,
}

impl From<&Snapshot> for ConnectionJson {
    fn from(connection: &Snapshot) -> ConnectionJson {
        let mut status: Vec<_> = connection
            .status
            .iter_names()
            .map(|(name, _)| name)
            .collect();
        if !connection.status.contains(Status::SEEN_REPLY) {
            status.push("UNREPLIED");
        }
        let protocol = connection.original.protocol;
        ConnectionJson {
            proto: protocol_name(protocol),
            proto_number: protocol.0,
            state: state_name(protocol, connection.state),
            status,
            original: tuple_json(connection, Direction::Original),
            reply: tuple_json(connection, Direction::Reply),
            timeout_s: connection.remaining / SECOND,
        }
    }
}

/// An event as `--json` shows it.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct EventJson {
    /// `NEW`, `UPDATE` or `DESTROY`.
    pub event: &'static str,
    /// Seconds since 1970, to the microsecond.
    pub at_s: f64,
    /// The connection as it was then.
    #[serde(flatten)]
    pub connection: ConnectionJson,
}

impl EventJson {
    /// `None` for what the tool never shows (a lost clash).
    #[must_use]
    pub fn of(event: &Event) -> Option<EventJson> {
        let (event, at, connection) = parts(event)?;
        // Microseconds since 1970 fit the 53 bits of a double.
        let at_s = (at / 1000) as f64 / 1e6;
        Some(EventJson {
            event,
            at_s,
            connection: connection.into(),
        })
    }
}

fn parts(event: &Event) -> Option<(&'static str, Nanos, &Snapshot)> {
    match event {
        Event::New(at, connection) => Some(("NEW", *at, connection)),
        Event::Update(at, connection, _) => Some(("UPDATE", *at, connection)),
        Event::Destroy(at, connection) => Some(("DESTROY", *at, connection)),
        Event::Clash { .. } => None,
    }
}

/// Protocol, time left and state, each with a blank behind it.
fn head(connection: &Snapshot, with_timeout: bool) -> String {
    let protocol = connection.original.protocol;
    let mut line = format!("{:<8} {} ", protocol_name(protocol), protocol.0);
    if with_timeout {
        push(
            &mut line,
            format_args!("{} ", connection.remaining / SECOND),
        );
    }
    if let Some(state) = state_name(protocol, connection.state) {
        push(&mut line, format_args!("{state} "));
    }
    line
}

/// Both tuples with what stands between and behind them, no blank at the end.
fn tuples(connection: &Snapshot, with_traffic: bool) -> String {
    let mut line = connection.original.to_string();
    let zone = connection.zone();
    if zone.id != 0 && zone.directions == ZoneDirections::Original {
        push(&mut line, format_args!(" zone-orig={}", zone.id));
    }
    let traffic = connection.traffic.filter(|_| with_traffic);
    let push_traffic = |line: &mut String, direction: Direction| {
        if let Some((packets, bytes)) = traffic.map(|both| both[direction.index()]) {
            push(line, format_args!(" packets={packets} bytes={bytes}"));
        }
    };
    push_traffic(&mut line, Direction::Original);
    if !connection.status.contains(Status::SEEN_REPLY) {
        line.push_str(" [UNREPLIED]");
    }
    push(&mut line, format_args!(" {}", connection.reply));
    if zone.id != 0 && zone.directions == ZoneDirections::Reply {
        push(&mut line, format_args!(" zone-reply={}", zone.id));
    }
    push_traffic(&mut line, Direction::Reply);
    if connection.status.contains(Status::ASSURED) {
        line.push_str(" [ASSURED]");
    }
    line
}

fn tuple_json(connection: &Snapshot, direction: Direction) -> Value {
    let (tuple, zone): (&Tuple, u16) = match direction {
        Direction::Original => (&connection.original, connection.zones.0),
        Direction::Reply => (&connection.reply, connection.zones.1),
    };
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("src", json!(tuple.src.to_ip(tuple.family)));
    put("dst", json!(tuple.dst.to_ip(tuple.family)));
    match tuple.protocol {
        p if p.has_ports() => {
            put("sport", tuple.src_key.into());
            put("dport", tuple.dst_key.into());
        }
        p if p.is_icmp() => {
            put("type", tuple.icmp_type().into());
            put("code", tuple.icmp_code().into());
            put("id", tuple.src_key.into());
        }
        Protocol::GRE => {
            put("srckey", tuple.src_key.into());
            put("dstkey", tuple.dst_key.into());
        }
        _ => {}
    }
    if zone != 0 {
        put("zone", zone.into());
    }
    if let Some((packets, bytes)) = connection.traffic.map(|both| both[direction.index()]) {
        put("packets", packets.into());
        put("bytes", bytes.into());
    }
    Value::Object(object)
}

fn push(line: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = line.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use clashtrack_engine::addr::{Addr, Family};
    use clashtrack_engine::table::slab::EntryId;

    fn connection(protocol: Protocol, state: u8, status: Status) -> Snapshot {
        let original = Tuple {
            src: Addr::v4([10, 0, 0, 11].into()),
            dst: Addr::v4([198, 51, 100, 21].into()),
            src_key: if protocol == Protocol::ICMP {
                9544
            } else {
                40185
            },
            dst_key: if protocol == Protocol::ICMP {
                8 << 8
            } else {
                80
            },
            family: Family::Ipv4,
            protocol,
        };
        Snapshot {
            id: EntryId::new(0, 1),
            original,
            reply: original.invert().unwrap(),
            zones: (0, 0),
            status,
            remaining: 95 * SECOND + 999_999_999,
            state,
            traffic: None,
        }
    }

    const TIME_WAIT: u8 = 7;
    const BOTH: Status = Status::SEEN_REPLY.union(Status::ASSURED);

    #[test]
    fn a_listed_connection_reads_as_the_tool_prints_it() {
        assert_eq!(
            list_line(&connection(Protocol::TCP, TIME_WAIT, BOTH)),
            "tcp      6 95 TIME_WAIT src=10.0.0.11 dst=198.51.100.21 sport=40185 dport=80 \
             src=198.51.100.21 dst=10.0.0.11 sport=80 dport=40185 [ASSURED] mark=0 use=1"
        );
        assert_eq!(
            list_line(&connection(Protocol::ICMP, 0, Status::empty())),
            "icmp     1 95 src=10.0.0.11 dst=198.51.100.21 type=8 code=0 id=9544 [UNREPLIED] \
             src=198.51.100.21 dst=10.0.0.11 type=0 code=0 id=9544 mark=0 use=1"
        );
        assert_eq!(
            list_line(&connection(Protocol(253), 0, Status::SEEN_REPLY)),
            "unknown  253 95 src=10.0.0.11 dst=198.51.100.21 src=198.51.100.21 dst=10.0.0.11 mark=0 use=1"
        );
    }

    #[test]
    fn zones_and_traffic_stand_where_the_tool_puts_them() {
        let mut udp = connection(Protocol::UDP, 0, Status::SEEN_REPLY);
        udp.zones = (3, 0);
        udp.traffic = Some([(1, 60), (2, 120)]);
        assert_eq!(
            list_line(&udp),
            "udp      17 95 src=10.0.0.11 dst=198.51.100.21 sport=40185 dport=80 zone-orig=3 packets=1 bytes=60 \
             src=198.51.100.21 dst=10.0.0.11 sport=80 dport=40185 packets=2 bytes=120 mark=0 use=1"
        );
        udp.zones = (3, 3);
        assert!(list_line(&udp).ends_with(" mark=0 zone=3 use=1"));
    }

    #[test]
    fn events_are_indented_and_stamped_and_a_destroyed_connection_has_no_time() {
        let at = 1_795_472_917_005_176_999;
        let tcp = connection(Protocol::TCP, TIME_WAIT, BOTH);
        let tuples = "src=10.0.0.11 dst=198.51.100.21 sport=40185 dport=80 \
                      src=198.51.100.21 dst=10.0.0.11 sport=80 dport=40185 [ASSURED]";
        assert_eq!(
            event_line(&Event::Destroy(at, tcp)).unwrap(),
            format!("[1795472917.005176]\t[DESTROY] tcp      6 TIME_WAIT {tuples}")
        );
        let new = event_line(&Event::New(at, tcp)).unwrap();
        assert_eq!(
            new,
            format!("[1795472917.005176]\t    [NEW] tcp      6 95 TIME_WAIT {tuples}")
        );
    }

    #[test]
    fn json_names_the_flags_and_says_what_has_no_reply() {
        let json = ConnectionJson::from(&connection(Protocol::TCP, TIME_WAIT, BOTH));
        assert_eq!(json.status, ["SEEN_REPLY", "ASSURED"]);
        assert_eq!(
            (json.proto, json.state, json.timeout_s),
            ("tcp", Some("TIME_WAIT"), 95)
        );
        assert_eq!(json.original["sport"], 40185);
        let json = ConnectionJson::from(&connection(Protocol::ICMP, 0, Status::empty()));
        assert_eq!((json.status, json.state), (vec!["UNREPLIED"], None));
        assert_eq!(json.original["id"], 9544);
    }
}
