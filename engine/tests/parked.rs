//! A thread that a signal stops inside a call, at random instants: the other one's calls go
//! on, each of them to its end.
//!
//! Nothing is timed. A table that waited for the stopped thread would hang this test, for
//! that thread goes on only when the other one has done its calls.

#![cfg(target_os = "linux")]

mod common;

use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::table::lockfree::{Layout, LockfreeTable, LockfreeWorker, Narrow};
use clashtrack_engine::table::{ClashStep, Confirmed, FlowTable};
use common::{NOW, Random, connect, key};

type Table = LockfreeTable<KeyV4, Narrow<2, 2, 2>>;

/// Instants at which the thread is stopped.
const STOPS: u64 = 1_000;
/// Calls of the other one meanwhile.
const CALLS: u64 = 40;

/// Stops so far, and how many of them are over. Written by the handler, and by the test.
static STOPPED: AtomicU64 = AtomicU64::new(0);
static RELEASED: AtomicU64 = AtomicU64::new(0);

/// Stays here until it is released.
extern "C" fn stop(_signal: libc::c_int) {
    // AcqRel: the other thread sees that this one stands still.
    let stop = STOPPED.fetch_add(1, Ordering::AcqRel) + 1;
    // SAFETY: a signal set is plain data, and all zeroes is a value of it.
    let mut nothing: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `nothing` is a signal set of ours; the call is allowed in a handler.
    unsafe { libc::sigemptyset(&raw mut nothing) };
    // Acquire: what the other thread did meanwhile.
    while RELEASED.load(Ordering::Acquire) < stop {
        // SAFETY: allowed in a handler. SIGUSR2 is blocked here but for this wait, so it
        // cannot come between the look above and the wait.
        unsafe { libc::sigsuspend(&raw const nothing) };
    }
}

/// Its coming alone ends a wait.
extern "C" fn wake(_signal: libc::c_int) {}

fn install(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) {
    // SAFETY: plain data; all zeroes is a value of it.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `sa_mask` is ours to write.
    unsafe { libc::sigfillset(&raw mut action.sa_mask) };
    // SAFETY: the action is whole, and its handler calls only what a handler may.
    let done = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    assert_eq!(done, 0, "a handler is installed");
}

fn send(signal: libc::c_int, thread: libc::pthread_t) {
    // SAFETY: the thread was not joined yet, so its handle is good.
    let done = unsafe { libc::pthread_kill(thread, signal) };
    assert_eq!(done, 0, "a signal is sent");
}

#[derive(Debug, Default)]
struct Tally {
    inserted: u64,
    removed: u64,
    no_entry: u64,
}

/// One random call on few keys: all kinds, so that every part of them is stopped in.
fn call(table: &Table, worker: &mut LockfreeWorker, random: &mut Random, tally: &mut Tally) {
    let mut side = || random.below(4) as u16;
    let (a, b) = (key(side(), side()), key(side(), side()));
    table.begin(worker);
    match random.below(3) {
        0 => {
            let reply = match random.below(2) {
                0 => a.inverse().expect("UDP has answers"),
                _ => b,
            };
            match connect(table, worker, (a, reply), ClashStep::ReplyOnly, |_| {}) {
                Some((id, Confirmed::Inserted | Confirmed::ReplyOnly(_))) => {
                    tally.inserted += 1;
                    table.release(worker, id);
                }
                Some((_, Confirmed::Refused(_))) => {}
                Some((_, Confirmed::Merged(_))) => unreachable!("the policy never merges"),
                None => tally.no_entry += 1,
            }
        }
        1 => {
            if let Some(hit) = table.lookup(worker, &a, NOW) {
                assert_eq!(table.slab().entry(hit.id).key(hit.direction), a);
                table.release(worker, hit.id);
            }
        }
        _ => {
            if let Some(hit) = table.lookup(worker, &a, NOW) {
                if table.remove(worker, hit.id) {
                    tally.removed += 1;
                    table.release(worker, hit.id);
                }
                table.release(worker, hit.id);
            }
        }
    }
    table.end(worker);
}

#[test]
fn a_thread_stopped_by_a_signal_stops_nobody_else() {
    install(libc::SIGUSR1, stop);
    install(libc::SIGUSR2, wake);
    let layout = Layout {
        entries_max: 4_096,
        slack: 4_096,
        heads: 2,
        overflow: 64,
    };
    let table = Arc::new(Table::with_layout(layout, HashKey(1, 2), false));
    let (over, calls) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let victim = std::thread::spawn({
        let (table, over, calls) = (Arc::clone(&table), Arc::clone(&over), Arc::clone(&calls));
        move || {
            let (mut worker, mut random) = (table.worker(), Random(7));
            let mut tally = Tally::default();
            // Acquire, Release: nothing hangs on it but the end.
            while !over.load(Ordering::Acquire) {
                call(&table, &mut worker, &mut random, &mut tally);
                // Relaxed: a count.
                calls.fetch_add(1, Ordering::Relaxed);
            }
            tally
        }
    });
    let (mut worker, mut random) = (table.worker(), Random(8));
    let mut tally = Tally::default();
    for round in 1..=STOPS {
        // Relaxed: a count.
        let wanted = calls.load(Ordering::Relaxed) + 1 + random.below(3);
        // Relaxed: as above.
        while calls.load(Ordering::Relaxed) < wanted {
            std::thread::yield_now();
        }
        for _ in 0..random.below(2_000) {
            std::hint::spin_loop();
        }
        send(libc::SIGUSR1, victim.as_pthread_t());
        // Acquire: it stands still, wherever it was.
        while STOPPED.load(Ordering::Acquire) < round {
            std::thread::yield_now();
        }
        for _ in 0..CALLS {
            call(&table, &mut worker, &mut random, &mut tally);
        }
        // Release: to the handler.
        RELEASED.store(round, Ordering::Release);
        send(libc::SIGUSR2, victim.as_pthread_t());
    }
    // Release: to the thread.
    over.store(true, Ordering::Release);
    let theirs = victim.join().expect("the stopped thread ends well");
    let live = table.slab().confirmed().count() as u64;
    let (inserted, removed) = (
        tally.inserted + theirs.inserted,
        tally.removed + theirs.removed,
    );
    assert_eq!(inserted, removed + live, "{tally:?} {theirs:?}");
    assert!(tally.inserted > STOPS && tally.removed > STOPS, "{tally:?}");
    assert_eq!(tally.no_entry, 0, "the slack was enough: {tally:?}");
}
