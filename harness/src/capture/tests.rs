//! Captures built by hand, whole and broken.

use proptest::prelude::*;

use super::*;

const PACKET: &[u8] = &[0x45, 0, 0, 20, 1, 2, 3];

fn words(order: ByteOrder, words: &[u32]) -> Vec<u8> {
    words
        .iter()
        .flat_map(|word| match order {
            ByteOrder::Little => word.to_le_bytes(),
            ByteOrder::Big => word.to_be_bytes(),
        })
        .collect()
}

fn halves(order: ByteOrder, halves: [u16; 2]) -> Vec<u8> {
    let [a, b] = halves.map(u32::from);
    match order {
        ByteOrder::Little => words(order, &[b << 16 | a]),
        ByteOrder::Big => words(order, &[a << 16 | b]),
    }
}

fn pcap(order: ByteOrder, magic: u32, link: u32, records: &[[u32; 4]]) -> Vec<u8> {
    let mut file = words(order, &[magic]);
    file.extend(halves(order, [2, 4]));
    file.extend(words(order, &[0, 0, 65_535, link]));
    for record in records {
        file.extend(words(order, record));
        file.extend(&PACKET[..(record[2] as usize).min(PACKET.len())]);
    }
    file
}

fn block(order: ByteOrder, kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let length = (padded + 12) as u32;
    let mut block = words(order, &[kind, length]);
    block.extend(body);
    block.resize(8 + padded, 0);
    block.extend(words(order, &[length]));
    block
}

fn section(order: ByteOrder) -> Vec<u8> {
    let mut body = words(order, &[0x1a2b_3c4d]);
    body.extend(halves(order, [1, 0]));
    body.extend([0xff; 8]);
    block(order, 0x0a0d_0d0a, &body)
}

fn interface(order: ByteOrder, link: u16, resolution: Option<u8>, offset_s: i64) -> Vec<u8> {
    let mut body = halves(order, [link, 0]);
    body.extend(words(order, &[65_535]));
    if let Some(resolution) = resolution {
        body.extend(halves(order, [9, 1]));
        body.extend([resolution, 0, 0, 0]);
    }
    body.extend(halves(order, [14, 8]));
    body.extend(match order {
        ByteOrder::Little => offset_s.to_le_bytes(),
        ByteOrder::Big => offset_s.to_be_bytes(),
    });
    body.extend([0; 4]);
    block(order, 1, &body)
}

fn enhanced(order: ByteOrder, interface: u32, units: u64, wire: u32) -> Vec<u8> {
    let (high, low) = ((units >> 32) as u32, units as u32);
    let mut body = words(order, &[interface, high, low, PACKET.len() as u32, wire]);
    body.extend(PACKET);
    block(order, 6, &body)
}

fn read(file: &[u8]) -> (Vec<Record>, Option<CaptureError>) {
    let mut records = Vec::new();
    match Capture::new("test", file) {
        Err(error) => return (records, Some(error)),
        Ok(capture) => {
            for record in capture {
                match record {
                    Ok(record) => records.push(record),
                    Err(error) => return (records, Some(error)),
                }
            }
        }
    }
    (records, None)
}

const ORDERS: [ByteOrder; 2] = [ByteOrder::Little, ByteOrder::Big];

#[test]
fn pcap_is_read_in_both_byte_orders_and_resolutions() {
    for order in ORDERS {
        for (magic, nanos) in [(0xa1b2_c3d4, 5_000), (0xa1b2_3c4d, 5)] {
            let file = pcap(order, magic, 1, &[[7, 5, 7, 7], [8, 0, 7, 90]]);
            let (records, error) = read(&file);
            assert!(error.is_none(), "{error:?}");
            assert_eq!(records.len(), 2);
            assert_eq!(records[0].timestamp_ns, 7_000_000_000 + nanos);
            assert_eq!(records[0].bytes, PACKET);
            assert_eq!(records[0].link_type, Some(LinkType::Ethernet));
            assert_eq!([records[0].offset, records[1].offset], [24, 24 + 16 + 7]);
            assert_eq!(
                [records[0].is_truncated(), records[1].is_truncated()],
                [false, true]
            );
        }
    }
}

#[test]
fn pcapng_is_read_in_both_byte_orders_with_an_interface_a_packet() {
    for order in ORDERS {
        let file = [
            section(order),
            interface(order, 1, None, 0),
            interface(order, 101, Some(9), 100),
            block(order, 0x1234, &[0; 40]),
            enhanced(order, 0, 3_000_001, 7),
            enhanced(order, 1, 3_000_001, 50),
        ]
        .concat();
        let (records, error) = read(&file);
        assert!(error.is_none(), "{error:?}");
        let seen: Vec<_> = records
            .iter()
            .map(|r| (r.timestamp_ns, r.link_type, r.is_truncated()))
            .collect();
        assert_eq!(
            seen,
            [
                (3_000_001_000, Some(LinkType::Ethernet), false),
                (100_003_000_001, Some(LinkType::RawIp), true),
            ]
        );
    }
}

#[test]
fn a_resolution_may_be_a_power_of_two() {
    let order = ByteOrder::Little;
    let half_a_second = 1 << 19;
    let file = [
        section(order),
        interface(order, 1, Some(0x80 | 20), 0),
        enhanced(order, 0, (4 << 20) + half_a_second, 7),
    ]
    .concat();
    assert_eq!(read(&file).0[0].timestamp_ns, 4_500_000_000);
}

#[test]
fn a_simple_packet_has_the_time_of_the_packet_before_and_no_padding() {
    let order = ByteOrder::Big;
    let simple = [&words(order, &[7])[..], PACKET].concat();
    let file = [
        section(order),
        interface(order, 1, None, 0),
        enhanced(order, 0, 9, 7),
        block(order, 3, &simple),
    ]
    .concat();
    let (records, error) = read(&file);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(records[1].timestamp_ns, 9_000);
    assert_eq!(records[1].bytes, PACKET);
}

#[test]
fn a_new_section_may_change_the_byte_order_and_begins_its_interfaces_anew() {
    let [little, big] = ORDERS;
    let file = [
        section(little),
        interface(little, 1, None, 0),
        section(big),
        interface(big, 101, None, 0),
        enhanced(big, 0, 1, 7),
    ]
    .concat();
    let (records, error) = read(&file);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(records[0].link_type, Some(LinkType::RawIp));
}

#[test]
fn a_file_that_is_no_capture_is_refused_with_what_it_begins_with() {
    let cases: [(&[u8], &str); 5] = [
        (b"", "it is empty"),
        (b"ab", "shorter than a header"),
        (
            b"%PDF-1.7 and more of it, enough for a header",
            "25 50 44 46",
        ),
        (&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0], "header is cut off"),
        (
            &[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 1, 2, 3, 4, 1, 0, 0, 0],
            "byte order mark",
        ),
    ];
    for (file, what) in cases {
        let error = Capture::new("x.pcap", file).unwrap_err();
        assert!(
            matches!(error, CaptureError::NotACapture { .. }),
            "{error:?}"
        );
        let said = error.to_string();
        assert!(
            said.starts_with("x.pcap: ") && said.contains(what),
            "{said}"
        );
    }
}

#[test]
fn a_link_type_that_is_not_understood_is_refused_with_its_number() {
    let file = pcap(ByteOrder::Little, 0xa1b2_c3d4, 105, &[]);
    let error = Capture::new("wifi.pcap", &file[..]).unwrap_err();
    assert!(error.to_string().contains("link type 105"), "{error}");
}

#[test]
fn a_record_cut_off_anywhere_is_reported_at_its_first_byte_after_all_before_it() {
    let ng = [
        section(ByteOrder::Little),
        interface(ByteOrder::Little, 1, None, 0),
        enhanced(ByteOrder::Little, 0, 1, 7),
        enhanced(ByteOrder::Little, 0, 2, 7),
    ]
    .concat();
    let plain = pcap(
        ByteOrder::Little,
        0xa1b2_c3d4,
        1,
        &[[1, 0, 7, 7], [2, 0, 7, 7]],
    );
    for file in [ng, plain] {
        let second = read(&file).0[1].offset;
        for end in second as usize + 1..file.len() {
            let (records, error) = read(&file[..end]);
            assert_eq!(records.len(), 1);
            match error {
                Some(CaptureError::CutOff { offset, .. }) => assert_eq!(offset, second),
                other => panic!("{other:?} where the file ends at {end}"),
            }
        }
    }
}

#[test]
fn a_length_that_no_packet_has_is_not_believed() {
    let file = pcap(
        ByteOrder::Little,
        0xa1b2_c3d4,
        1,
        &[[1, 0, 7, 7], [2, 0, 0xffff_fff0, 7]],
    );
    let (records, error) = read(&file);
    assert_eq!(records.len(), 1);
    assert!(
        matches!(error, Some(CaptureError::Damaged { offset: 47, .. })),
        "{error:?}"
    );
}

#[test]
fn a_block_that_contradicts_itself_is_reported() {
    let order = ByteOrder::Little;
    let good = [section(order), interface(order, 1, None, 0)].concat();
    let unknown_interface = enhanced(order, 5, 1, 7);
    let mut two_lengths = enhanced(order, 0, 1, 7);
    let last = two_lengths.len() - 4;
    two_lengths[last] ^= 4;
    let mut too_much = enhanced(order, 0, 1, 7);
    too_much[20] = 200;
    for (bad, what) in [
        (unknown_interface, "interface 5"),
        (two_lengths, "at the front"),
        (too_much, "200 captured bytes"),
        (words(order, &[6, 7]), "multiple of 4"),
    ] {
        let (records, error) = read(&[&good[..], &bad].concat());
        assert!(records.is_empty());
        let error = error.expect("damage is an error");
        assert!(
            matches!(error, CaptureError::Damaged { offset, .. } if offset == good.len() as u64)
        );
        assert!(error.to_string().contains(what), "{error}");
    }
}

/// Our reader and pcap-parser's see the same packets in a real capture.
#[test]
fn a_real_capture_is_read_as_pcap_parser_reads_it() {
    let file = include_bytes!("../../tests/data/real/inside.pcap");
    let (records, error) = read(file);
    assert!(error.is_none(), "{error:?}");
    let theirs = pcap_parser::parse_pcap(file).expect("a whole capture").1;
    assert_eq!(records.len(), theirs.blocks.len());
    for (ours, theirs) in records.iter().zip(&theirs.blocks) {
        let at = u64::from(theirs.ts_sec) * 1_000_000_000 + u64::from(theirs.ts_usec) * 1000;
        assert_eq!(ours.timestamp_ns, at);
        assert_eq!(ours.bytes, theirs.data);
        assert_eq!(ours.wire_bytes, u64::from(theirs.origlen));
    }
}

proptest! {
    #[test]
    fn no_change_to_a_capture_makes_the_reader_panic(
        big in any::<bool>(), ng in any::<bool>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let order = ORDERS[usize::from(big)];
        let mut file = if ng {
            [
                section(order),
                interface(order, 1, Some(9), 5),
                enhanced(order, 0, 1, 7),
                block(order, 3, &[0, 0, 0, 7, 1, 2, 3, 4]),
                enhanced(order, 0, 2, 70),
            ].concat()
        } else {
            pcap(order, 0xa1b2_c3d4, 1, &[[1, 0, 7, 7], [2, 0, 7, 70]])
        };
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let (records, _) = read(&file[..cut.index(file.len() + 1)]);
        for record in records {
            prop_assert!(record.bytes.len() <= file.len());
            if let Some(link_type) = record.link_type {
                let _ = link::Frame::parse(link_type, &record.bytes);
            }
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
    }
}
