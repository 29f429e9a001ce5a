//! Which value is faster in a map of connections: an index into the slab, or an `Arc` of an entry?
//!
//! The peers hold whichever it is (`docs/peers.md`). One worker, random access over all connections, TCP behind NAT: connect
//! (an entry made and initialised, two inserts), find (by either key, in batches under one guard where the
//! map has guards, the status read and nothing held), remove (both keys). An `Arc` is kept by the map while its guard lasts;
//! an index is checked against its life where the map does not keep it in place.
//!
//! ```text
//! cargo run --release -p clashtrack --example index_or_arc [CONNECTIONS]
//! ```
//!
//! Rounds take turns; each figure is the median of five, nanoseconds an operation. Compare columns, not days.

use std::hint::black_box;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clashtrack_engine::addr::{Addr, Family};
use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::status::Status;
use clashtrack_engine::table::hash::{Folded, HashKey, KeyHasher};
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::table::slab::{Entry, EntryId, FreeCache, Life, Slab};
use clashtrack_engine::tuple::{Direction, Protocol, Tuple};

const ROUNDS: usize = 5;
const BATCH: usize = 64;
const NAT: Status = Status::SRC_NAT.union(Status::SRC_NAT_DONE);

/// A key that hashes by its words, as in the peers.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key(KeyV4);

impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, hasher: &mut H) {
        for word in self.0.words() {
            hasher.write_u64(word);
        }
    }
}

/// What a map holds for a key, and how connections are made of it.
trait Value: Clone + Send + Sync + 'static {
    const NAME: &'static str;
    fn make(store: &mut Store, keys: [KeyV4; 2]) -> Self;
    /// Read while the map keeps the value in place.
    fn status(&self, store: &Store) -> Option<Status>;
    /// Read under a guard that keeps the value, and not what an index names.
    fn status_of_a_life(&self, store: &Store) -> Option<Status>;
    fn end(self, store: &mut Store);
}

/// Entries by number.
struct Store {
    slab: Slab<KeyV4>,
    cache: FreeCache,
}

fn initialise(entry: &Entry<KeyV4>, keys: [KeyV4; 2]) {
    entry.set_keys(keys[0], keys[1]);
    entry.put_status(NAT);
    entry.set_deadline(u64::MAX);
}

impl Value for EntryId {
    const NAME: &'static str = "index";

    fn make(store: &mut Store, keys: [KeyV4; 2]) -> EntryId {
        let id = store.slab.allocate(&mut store.cache).expect("room for all");
        initialise(store.slab.entry(id), keys);
        store.slab.change_life(id, Life::Pending, Life::Confirmed);
        id
    }

    fn status(&self, store: &Store) -> Option<Status> {
        Some(store.slab.entry(*self).status())
    }

    fn status_of_a_life(&self, store: &Store) -> Option<Status> {
        store
            .slab
            .read_confirmed(*self, || store.slab.entry(*self).status())
    }

    fn end(self, store: &mut Store) {
        store.slab.change_life(self, Life::Confirmed, Life::Dying);
        store.slab.release(&mut store.cache, self);
    }
}

impl Value for Arc<Entry<KeyV4>> {
    const NAME: &'static str = "Arc";

    fn make(_: &mut Store, keys: [KeyV4; 2]) -> Arc<Entry<KeyV4>> {
        let entry = Arc::new(Entry::default());
        initialise(&entry, keys);
        entry
    }

    fn status(&self, _: &Store) -> Option<Status> {
        Some(Entry::status(self))
    }

    fn status_of_a_life(&self, _: &Store) -> Option<Status> {
        Some(Entry::status(self))
    }

    fn end(self, _: &mut Store) {}
}

/// The three operations on a map.
trait Map<V: Value>: Sized {
    fn new(keys: usize) -> Self;
    fn insert(&self, key: Key, value: V);
    /// Sum of the statuses found.
    fn find(&self, keys: &[KeyV4], store: &Store) -> u64;
    fn remove(&self, key: &Key) -> Option<V>;
}

fn hasher() -> Folded {
    Folded::with_key(HashKey(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210))
}

fn bits(status: Option<Status>) -> u64 {
    status.map_or(0, |status| u64::from(status.bits()))
}

impl<V: Value> Map<V> for dashmap::DashMap<Key, V, Folded> {
    fn new(keys: usize) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let shards = (4 * processors).next_power_of_two();
        dashmap::DashMap::with_capacity_and_hasher_and_shard_amount(keys, hasher(), shards)
    }

    fn insert(&self, key: Key, value: V) {
        dashmap::DashMap::insert(self, key, value);
    }

    fn find(&self, keys: &[KeyV4], store: &Store) -> u64 {
        let found = keys.iter().map(|key| self.get(&Key(*key)));
        found
            .map(|value| bits(value.and_then(|value| value.status(store))))
            .sum()
    }

    fn remove(&self, key: &Key) -> Option<V> {
        dashmap::DashMap::remove(self, key).map(|(_, value)| value)
    }
}

impl<V: Value> Map<V> for papaya::HashMap<Key, V, Folded> {
    fn new(keys: usize) -> Self {
        papaya::HashMap::with_capacity_and_hasher(keys, hasher())
    }

    fn insert(&self, key: Key, value: V) {
        papaya::HashMap::insert(self, key, value, &self.guard());
    }

    fn find(&self, keys: &[KeyV4], store: &Store) -> u64 {
        let guard = self.guard();
        let found = keys.iter().map(|key| self.get(&Key(*key), &guard));
        found
            .map(|value| bits(value.and_then(|value| value.status_of_a_life(store))))
            .sum()
    }

    fn remove(&self, key: &Key) -> Option<V> {
        papaya::HashMap::remove(self, key, &self.guard()).cloned()
    }
}

impl<V: Value> Map<V> for scc::HashIndex<Key, V, Folded> {
    fn new(keys: usize) -> Self {
        scc::HashIndex::with_capacity_and_hasher(keys, hasher())
    }

    fn insert(&self, key: Key, value: V) {
        assert!(self.insert_sync(key, value).is_ok(), "a key of its own");
    }

    fn find(&self, keys: &[KeyV4], store: &Store) -> u64 {
        let guard = scc::Guard::new();
        let found = keys.iter().map(|key| self.peek(&Key(*key), &guard));
        found
            .map(|value| bits(value.and_then(|value| value.status_of_a_life(store))))
            .sum()
    }

    fn remove(&self, key: &Key) -> Option<V> {
        let value = self.peek(key, &scc::Guard::new()).cloned();
        self.remove_sync(key);
        value
    }
}

/// Nanoseconds an operation: connect, find, remove.
type Figures = [f64; 3];

fn round<V: Value, M: Map<V>>(pairs: &[[KeyV4; 2]], asked: &[KeyV4]) -> Figures {
    let mut store = Store {
        slab: Slab::new(pairs.len() + 256, false),
        cache: FreeCache::new(),
    };
    let map = M::new(2 * pairs.len());
    let per = |begun: Instant, count: usize| begun.elapsed().as_nanos() as f64 / count as f64;
    // Once before: the memory of all is touched.
    for [original, _] in pairs {
        map.insert(Key(*original), V::make(&mut store, [*original; 2]));
    }
    for [original, _] in pairs {
        map.remove(&Key(*original)).expect("there").end(&mut store);
    }
    let begun = Instant::now();
    for keys in pairs {
        let value = V::make(&mut store, *keys);
        map.insert(Key(keys[0]), value.clone());
        map.insert(Key(keys[1]), value);
    }
    let connect = per(begun, pairs.len());
    let begun = Instant::now();
    let sum: u64 = asked.chunks(BATCH).map(|keys| map.find(keys, &store)).sum();
    let find = per(begun, asked.len());
    assert_eq!(
        black_box(sum),
        asked.len() as u64 * u64::from(NAT.bits()),
        "each key is found"
    );
    let begun = Instant::now();
    for keys in pairs {
        map.remove(&Key(keys[Direction::Reply.index()]));
        let value = map.remove(&Key(keys[Direction::Original.index()]));
        value.expect("there").end(&mut store);
    }
    [connect, find, per(begun, pairs.len())]
}

/// Behind source NAT: two keys of their own.
fn pair(number: u32) -> [KeyV4; 2] {
    let original = Tuple {
        src: Addr::from_u32(0x0a00_0000 + number),
        dst: Addr::from_u32(0xc633_6401),
        src_key: 40_000,
        dst_key: 443,
        family: Family::Ipv4,
        protocol: Protocol::TCP,
    };
    let reply = Tuple {
        src: original.dst,
        dst: Addr::from_u32(0xcb00_7100 + (number >> 16)),
        src_key: 443,
        dst_key: number as u16,
        ..original
    };
    [KeyV4::pack(&original, 0), KeyV4::pack(&reply, 0)]
}

fn shuffle<T>(items: &mut [T], rng: &mut WorkerRng) {
    for at in (1..items.len()).rev() {
        items.swap(at, rng.below(at as u32 + 1) as usize);
    }
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let connections = match words.as_slice() {
        [] => Some(1_000_000),
        [word] => word.parse().ok().filter(|n| (1..=1 << 22).contains(n)),
        _ => None,
    };
    let Some(connections) = connections else {
        eprintln!(
            "index_or_arc: write one number of connections, 1 to {}",
            1 << 22
        );
        return ExitCode::from(2);
    };
    let mut rng = WorkerRng::new(1, 0);
    let mut pairs: Vec<_> = (0..connections).map(pair).collect();
    shuffle(&mut pairs, &mut rng);
    let mut asked: Vec<_> = pairs
        .iter()
        .map(|keys| keys[rng.below(2) as usize])
        .collect();
    shuffle(&mut asked, &mut rng);

    type Index = EntryId;
    type Shared = Arc<Entry<KeyV4>>;
    type Round = fn(&[[KeyV4; 2]], &[KeyV4]) -> Figures;
    let rows: [(&str, &str, Round); 6] = [
        (
            "dashmap",
            Index::NAME,
            round::<Index, dashmap::DashMap<_, _, _>>,
        ),
        (
            "dashmap",
            Shared::NAME,
            round::<Shared, dashmap::DashMap<_, _, _>>,
        ),
        (
            "papaya",
            Index::NAME,
            round::<Index, papaya::HashMap<_, _, _>>,
        ),
        (
            "papaya",
            Shared::NAME,
            round::<Shared, papaya::HashMap<_, _, _>>,
        ),
        ("scc", Index::NAME, round::<Index, scc::HashIndex<_, _, _>>),
        (
            "scc",
            Shared::NAME,
            round::<Shared, scc::HashIndex<_, _, _>>,
        ),
    ];
    let mut seen = vec![Vec::new(); rows.len()];
    for _ in 0..ROUNDS {
        for ((_, _, round), seen) in rows.iter().zip(&mut seen) {
            seen.push(round(&pairs, &asked));
        }
    }
    let mut out = std::io::stdout().lock();
    let median = |seen: &[Figures], which: usize| {
        let mut figures: Vec<_> = seen.iter().map(|figures| figures[which]).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    let mut text = format!(
        "{connections} connections, ns an operation\nmap      value   connect   find   remove\n"
    );
    for ((map, value, _), seen) in rows.iter().zip(&seen) {
        let [connect, find, remove] = [0, 1, 2].map(|which| median(seen, which));
        text.push_str(&format!(
            "{map:<8} {value:<7} {connect:>7.0} {find:>6.0} {remove:>8.0}\n"
        ));
    }
    match out.write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
