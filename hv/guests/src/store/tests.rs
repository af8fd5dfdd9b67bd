//! The store against a naive model, against noise, and request by request.

use std::collections::BTreeMap;
use std::string::{String, ToString as _};
use std::vec::Vec;
use std::{format, vec};

use proptest::prelude::*;

use super::path;
use super::perms::{Entry, Perms};
use super::server::{ANSWERS, EVENTS};
use super::tree::Quota;
use super::wire::{Error, HEADER, Header, PAYLOAD_MAX, kind, message};
use super::{Host, Store};

/// Connects whom it is told to, and remembers.
#[derive(Default)]
struct Recorder {
    released: Vec<u16>,
    printed: Vec<String>,
}

impl Host for Recorder {
    fn introduce(&mut self, domid: u16, _: u32) -> Result<(), Error> {
        if domid < 10 { Ok(()) } else { Err(Error::NoEnt) }
    }
    fn release(&mut self, domid: u16) {
        self.released.push(domid);
    }
    fn print(&mut self, line: &str) {
        self.printed.push(line.to_string());
    }
}

fn store() -> Store {
    store_with(Quota::DEFAULT)
}

fn store_with(quota: Quota) -> Store {
    let mut store = Store::new(quota);
    (0..3).for_each(|domid| store.introduce(domid));
    store
}

fn feed(store: &mut Store, domid: u16, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let taken = store.receive(domid, bytes).expect("well formed");
        assert_ne!(taken, 0);
        bytes = &bytes[taken..];
    }
}

/// Everything a client has been sent, cut into messages.
fn messages(store: &mut Store, domid: u16) -> Vec<(Header, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        let part = store.output(domid).to_vec();
        if part.is_empty() {
            break;
        }
        // In odd pieces, as a ring takes them.
        let part = &part[..part.len().min(7)];
        store.sent(domid, part.len());
        bytes.extend_from_slice(part);
    }
    let mut found = Vec::new();
    let mut rest = &bytes[..];
    while let Some(header) = rest.first_chunk::<HEADER>() {
        let header = Header::decode(*header);
        let end = HEADER + usize::try_from(header.len).unwrap();
        found.push((header, rest[HEADER..end].to_vec()));
        rest = &rest[end..];
    }
    assert!(rest.is_empty());
    found
}

type Reply = Result<Vec<u8>, String>;

/// One request and its answer; events meanwhile are thrown away.
fn ask(store: &mut Store, domid: u16, kind: u32, tx_id: u32, payload: &[u8]) -> Reply {
    feed(store, domid, &message(Header { kind, req_id: 77, tx_id, len: 0 }, payload));
    assert!(store.turn(domid, &mut Recorder::default()));
    let (header, payload) =
        messages(store, domid).into_iter().find(|(header, _)| header.kind != kind::WATCH_EVENT).unwrap();
    assert_eq!((header.req_id, header.tx_id), (77, tx_id));
    if header.kind == kind::ERROR {
        return Err(String::from_utf8(payload).unwrap().trim_end_matches('\0').to_string());
    }
    assert_eq!(header.kind, kind);
    Ok(payload)
}

fn ok() -> Reply {
    Ok(b"OK\0".to_vec())
}

fn err(name: &str) -> Reply {
    Err(name.to_string())
}

/// (path, token) of the events a client has.
fn events(store: &mut Store, domid: u16) -> Vec<String> {
    messages(store, domid)
        .into_iter()
        .filter(|(header, _)| header.kind == kind::WATCH_EVENT)
        .map(|(_, payload)| String::from_utf8(payload).unwrap().replace('\0', "|"))
        .collect()
}

#[test]
fn reads_what_was_written_and_lists_it() {
    let mut store = store();
    assert_eq!(ask(&mut store, 1, kind::WRITE, 0, b"data/a/b\0x\0y"), ok());
    assert_eq!(ask(&mut store, 1, kind::READ, 0, b"/local/domain/1/data/a/b\0"), Ok(b"x\0y".to_vec()));
    assert_eq!(ask(&mut store, 1, kind::READ, 0, b"data/a\0"), Ok(vec![]));
    assert_eq!(ask(&mut store, 1, kind::WRITE, 0, b"data/c\0"), ok());
    assert_eq!(ask(&mut store, 1, kind::DIRECTORY, 0, b"data\0"), Ok(b"a\0c\0".to_vec()));
    assert_eq!(ask(&mut store, 1, kind::MKDIR, 0, b"data/a/b\0"), ok());
    assert_eq!(ask(&mut store, 1, kind::READ, 0, b"data/a/b\0"), Ok(b"x\0y".to_vec()));
    assert_eq!(ask(&mut store, 1, kind::RM, 0, b"data/a\0"), ok());
    assert_eq!(ask(&mut store, 1, kind::READ, 0, b"data/a/b\0"), err("ENOENT"));
    assert_eq!(ask(&mut store, 1, kind::RM, 0, b"data/a\0"), ok());
    assert_eq!(ask(&mut store, 1, kind::RM, 0, b"data/x/y\0"), err("ENOENT"));
    assert_eq!(ask(&mut store, 0, kind::RM, 0, b"/\0"), err("EINVAL"));
    store.check().unwrap();
}

#[test]
fn others_nodes_are_closed() {
    let mut store = store();
    assert_eq!(ask(&mut store, 1, kind::WRITE, 0, b"data/secret\0x"), ok());
    for kind in [kind::READ, kind::DIRECTORY, kind::GET_PERMS, kind::MKDIR, kind::RM] {
        // Whether a node is there is not told either.
        for at in [&b"/local/domain/1/data/secret\0"[..], b"/local/domain/1/data/nothing\0"] {
            assert_eq!(ask(&mut store, 2, kind, 0, at), err("EACCES"), "{kind} {at:?}");
        }
    }
    assert_eq!(ask(&mut store, 2, kind::WRITE, 0, b"/local/domain/1/data/secret\0y"), err("EACCES"));
    assert_eq!(ask(&mut store, 2, kind::WRITE, 0, b"/local/domain/2/new\0y"), err("EACCES"));
    assert_eq!(ask(&mut store, 1, kind::SET_PERMS, 0, b"data/secret\0n1\0r2\0"), ok());
    assert_eq!(ask(&mut store, 2, kind::READ, 0, b"/local/domain/1/data/secret\0"), Ok(b"x".to_vec()));
    assert_eq!(ask(&mut store, 2, kind::WRITE, 0, b"/local/domain/1/data/secret\0y"), err("EACCES"));
    assert_eq!(ask(&mut store, 2, kind::SET_PERMS, 0, b"/local/domain/1/data/secret\0b2\0"), err("EACCES"));
    assert_eq!(ask(&mut store, 1, kind::SET_PERMS, 0, b"data/secret\0b2\0"), err("EPERM"));
    assert_eq!(ask(&mut store, 1, kind::GET_PERMS, 0, b"data/secret\0"), Ok(b"n1\0r2\0".to_vec()));
    assert_eq!(ask(&mut store, 0, kind::SET_PERMS, 0, b"/local/domain/1/data/secret\0w2\0"), ok());
    assert_eq!(ask(&mut store, 1, kind::READ, 0, b"data/secret\0"), err("EACCES"));
}

#[test]
fn malformed_requests_are_refused() {
    let mut store = store();
    let long = [b"/".as_slice(), &[b'a'; 3072], b"\0"].concat();
    for at in [&b""[..], b"\0", b"data", b"//a\0", b"/a/\0", b"/a b\0", b"a\0b\0", b"/\xff\0", b"@x\0", &long]
    {
        assert_eq!(ask(&mut store, 0, kind::READ, 0, at), err("EINVAL"), "{at:?}");
    }
    assert_eq!(ask(&mut store, 1, kind::SET_PERMS, 0, b"data\0x1\0"), err("EINVAL"));
    assert_eq!(ask(&mut store, 1, kind::SET_PERMS, 0, b"data\0r99999\0"), err("EINVAL"));
    assert_eq!(ask(&mut store, 1, kind::TRANSACTION_END, 5, b"T\0"), err("ENOENT"));
    assert_eq!(ask(&mut store, 1, kind::READ, 5, b"data\0"), err("ENOENT"));
    for unknown in [20, 23, 26, 15, 16, 65535, u32::MAX] {
        assert_eq!(ask(&mut store, 1, unknown, 0, b"\0"), err("ENOSYS"));
    }
    for private in [kind::INTRODUCE, kind::RELEASE, kind::RESUME, kind::SET_TARGET, kind::CONTROL] {
        assert_eq!(ask(&mut store, 1, private, 0, b"2\0"), err("EACCES"));
    }
    assert!(store.receive(1, &message(Header { kind: 2, ..Header::default() }, &[0; PAYLOAD_MAX])).is_ok());
    let too_long = Header { kind: 2, len: 4097, ..Header::default() };
    assert!(store.receive(2, &too_long.encode()).is_err());
    store.reset(2);
    assert_eq!(ask(&mut store, 2, kind::READ, 0, b"domid\0"), Ok(b"2".to_vec()));
}

#[test]
fn watches_fire_at_once_and_on_changes() {
    let mut store = store();
    let watch = |store: &mut Store, domid, payload: &[u8]| {
        let header = Header { kind: kind::WATCH, ..Header::default() };
        feed(store, domid, &message(header, payload));
        assert!(store.turn(domid, &mut Recorder::default()));
        events(store, domid)
    };
    assert_eq!(watch(&mut store, 1, b"data\0t\0"), ["data|t|"]);
    assert_eq!(watch(&mut store, 0, b"/local/domain/1/data/a/b\0deep\0"), ["/local/domain/1/data/a/b|deep|"]);
    assert_eq!(watch(&mut store, 2, b"/\0all\0"), ["/|all|"]);
    assert_eq!(ask(&mut store, 1, kind::WATCH, 0, b"data\0t\0"), err("EEXIST"));
    ask(&mut store, 2, kind::WRITE, 0, b"data/mine\0x").unwrap();
    ask(&mut store, 1, kind::RESET_WATCHES, 0, b"\0").unwrap();
    assert_eq!(watch(&mut store, 1, b"data\0t\0"), ["data|t|"]);
    let write = |store: &mut Store, at: &str| {
        feed(store, 0, &message(Header { kind: kind::WRITE, ..Header::default() }, at.as_bytes()));
        assert!(store.turn(0, &mut Recorder::default()));
    };
    write(&mut store, "/local/domain/1/data/a/b\0x");
    assert_eq!(events(&mut store, 1), ["data/a/b|t|"]);
    assert_eq!(events(&mut store, 0), ["/local/domain/1/data/a/b|deep|"]);
    // The parent goes: a watch below hears its own path, one above that of the parent.
    ask(&mut store, 1, kind::RM, 0, b"data/a\0").unwrap();
    assert_eq!(events(&mut store, 0), ["/local/domain/1/data/a/b|deep|"]);
    // Domain 2 may not read any of that; it had its events from what it may.
    assert_eq!(events(&mut store, 2), ["/local/domain/1/data/a|all|"; 0]);
    assert_eq!(ask(&mut store, 1, kind::UNWATCH, 0, b"data\0other\0"), err("ENOENT"));
    assert_eq!(ask(&mut store, 1, kind::UNWATCH, 0, b"data\0t\0"), ok());
    write(&mut store, "/local/domain/1/data/c\0x");
    assert_eq!(events(&mut store, 1), [""; 0]);
}

#[test]
fn who_may_no_longer_read_hears_of_that_once() {
    let mut store = store();
    ask(&mut store, 1, kind::WRITE, 0, b"data/a\0x").unwrap();
    ask(&mut store, 1, kind::SET_PERMS, 0, b"data/a\0n1\0r2\0").unwrap();
    ask(&mut store, 2, kind::WATCH, 0, b"/local/domain/1/data/a\0t\0").unwrap();
    ask(&mut store, 1, kind::WRITE, 0, b"data/a\0y").unwrap();
    assert_eq!(events(&mut store, 2), ["/local/domain/1/data/a|t|"]);
    ask(&mut store, 1, kind::SET_PERMS, 0, b"data/a\0n1\0").unwrap();
    assert_eq!(events(&mut store, 2), ["/local/domain/1/data/a|t|"]);
    ask(&mut store, 1, kind::WRITE, 0, b"data/a\0z").unwrap();
    assert_eq!(events(&mut store, 2), [""; 0]);
}

#[test]
fn events_nobody_fetches_are_merged() {
    let mut store = store();
    ask(&mut store, 1, kind::WATCH, 0, b"data\0t\0").unwrap();
    for round in 0..5000 {
        ask(&mut store, 0, kind::WRITE, 0, format!("/local/domain/1/data/{}\0x", round % 50).as_bytes())
            .unwrap();
    }
    let mut bytes = 0;
    let heard = events(&mut store, 1);
    heard.iter().for_each(|event| bytes += event.len() + HEADER);
    assert!(bytes <= EVENTS + 2 * (HEADER + PAYLOAD_MAX), "{bytes}");
    assert_eq!(heard.last().unwrap(), "data|t|");
    assert_eq!(events(&mut store, 1), [""; 0]);
    ask(&mut store, 0, kind::WRITE, 0, b"/local/domain/1/data/9\0x").unwrap();
    assert_eq!(events(&mut store, 1), ["data/9|t|"]);
}

#[test]
fn requests_wait_while_answers_are_not_fetched() {
    let mut store = store();
    ask(&mut store, 1, kind::WRITE, 0, &[b"data/a\0".as_slice(), &[7; 2000]].concat()).unwrap();
    let request = message(Header { kind: kind::READ, ..Header::default() }, b"data/a\0");
    let mut answered = 0;
    loop {
        feed(&mut store, 1, &request);
        if !store.turn(1, &mut Recorder::default()) {
            break;
        }
        answered += 1;
    }
    assert!(answered * 2016 >= ANSWERS && answered <= ANSWERS / 2016 + 1, "{answered}");
    // The one that waits takes no more bytes.
    assert_eq!(store.wants(1), 0);
    assert_eq!(store.receive(1, &request), Ok(0));
    assert_eq!(messages(&mut store, 1).len(), answered);
    assert!(store.turn(1, &mut Recorder::default()));
}

#[test]
fn transactions_conflict_over_what_both_touched() {
    let mut store = store();
    let start = |store: &mut Store, domid| {
        let id = ask(store, domid, kind::TRANSACTION_START, 0, b"\0").unwrap();
        String::from_utf8(id).unwrap().trim_end_matches('\0').parse::<u32>().unwrap()
    };
    ask(&mut store, 1, kind::WRITE, 0, b"data/a\x001").unwrap();
    ask(&mut store, 1, kind::WRITE, 0, b"data/b\x001").unwrap();
    let tx = start(&mut store, 1);
    assert_eq!(ask(&mut store, 1, kind::TRANSACTION_START, tx, b"\0"), err("EBUSY"));
    assert_eq!(ask(&mut store, 1, kind::READ, tx, b"data/a\0"), Ok(b"1".to_vec()));
    ask(&mut store, 1, kind::WRITE, tx, b"data/c\x002").unwrap();
    assert_eq!(ask(&mut store, 1, kind::READ, 0, b"data/c\0"), err("ENOENT"));
    assert_eq!(ask(&mut store, 1, kind::READ, tx, b"data/c\0"), Ok(b"2".to_vec()));
    // Another value elsewhere does not disturb.
    ask(&mut store, 1, kind::WRITE, 0, b"data/b\x003").unwrap();
    assert_eq!(ask(&mut store, 1, kind::TRANSACTION_END, tx, b"T\0"), ok());
    assert_eq!(ask(&mut store, 1, kind::READ, 0, b"data/c\0"), Ok(b"2".to_vec()));
    // One that was read does.
    let tx = start(&mut store, 1);
    ask(&mut store, 1, kind::READ, tx, b"data/a\0").unwrap();
    ask(&mut store, 1, kind::WRITE, tx, b"data/d\0x").unwrap();
    ask(&mut store, 0, kind::WRITE, 0, b"/local/domain/1/data/a\x004").unwrap();
    assert_eq!(ask(&mut store, 1, kind::TRANSACTION_END, tx, b"T\0"), err("EAGAIN"));
    assert_eq!(ask(&mut store, 1, kind::READ, 0, b"data/d\0"), err("ENOENT"));
    assert_eq!(ask(&mut store, 1, kind::TRANSACTION_END, tx, b"T\0"), err("ENOENT"));
    // Given up, nothing is left of it.
    let tx = start(&mut store, 1);
    ask(&mut store, 1, kind::RM, tx, b"data/a\0").unwrap();
    assert_eq!(ask(&mut store, 1, kind::TRANSACTION_END, tx, b"F\0"), ok());
    assert_eq!(ask(&mut store, 1, kind::READ, 0, b"data/a\0"), Ok(b"4".to_vec()));
    store.check().unwrap();
}

#[test]
fn quotas_hold() {
    let quota = Quota { nodes: 20, watches: 3, transactions: 2, value: 10, touched: 30, ..Quota::DEFAULT };
    let mut store = store_with(quota);
    let free = 20 - store.tree().account(1).nodes;
    for number in 0..free {
        ask(&mut store, 1, kind::WRITE, 0, format!("data/{number}\0").as_bytes()).unwrap();
    }
    assert_eq!(ask(&mut store, 1, kind::WRITE, 0, b"data/more\0"), err("ENOSPC"));
    assert_eq!(ask(&mut store, 1, kind::WRITE, 0, b"data/0\0changed"), ok());
    assert_eq!(ask(&mut store, 1, kind::WRITE, 0, b"data/0\0longer than ten"), err("ENOSPC"));
    assert_eq!(ask(&mut store, 1, kind::SET_PERMS, 0, b"data/0\0n1\0r2\0r3\0r4\0r5\0r6\0"), err("ENOSPC"));
    for number in 0..3 {
        ask(&mut store, 1, kind::WATCH, 0, format!("data\0{number}\0").as_bytes()).unwrap();
    }
    assert_eq!(ask(&mut store, 1, kind::WATCH, 0, b"data\0more\0"), err("E2BIG"));
    ask(&mut store, 1, kind::TRANSACTION_START, 0, b"\0").unwrap();
    ask(&mut store, 1, kind::TRANSACTION_START, 0, b"\0").unwrap();
    assert_eq!(ask(&mut store, 1, kind::TRANSACTION_START, 0, b"\0"), err("ENOSPC"));
    // In a transaction as well, and the whole of it fails at its end if not before.
    assert_eq!(ask(&mut store, 1, kind::WRITE, 1, b"data/more\0"), err("ENOSPC"));
    let most = (0..40).find(|number| {
        ask(&mut store, 1, kind::READ, 1, format!("data/none-{number}\0").as_bytes()) == err("ENOSPC")
    });
    assert!(most.is_some_and(|most| most < 30));
    // Others have their own.
    assert_eq!(ask(&mut store, 2, kind::WRITE, 0, b"data/more\0"), ok());
}

#[test]
fn long_lists_come_in_parts() {
    let mut store = store_with(Quota { nodes: 5000, bytes: 4 << 20, ..Quota::DEFAULT });
    for number in 0..700 {
        ask(&mut store, 1, kind::WRITE, 0, format!("data/child-{number:04}\0").as_bytes()).unwrap();
    }
    assert_eq!(ask(&mut store, 1, kind::DIRECTORY, 0, b"data\0"), err("E2BIG"));
    let mut names = Vec::new();
    loop {
        let offset: usize = names.iter().map(|name: &String| name.len() + 1).sum();
        let request = format!("data\0{offset}\0");
        let part = ask(&mut store, 1, kind::DIRECTORY_PART, 0, request.as_bytes()).unwrap();
        assert!(part.len() <= PAYLOAD_MAX);
        let text = String::from_utf8(part).unwrap();
        let mut words = text.strip_suffix('\0').unwrap().split('\0');
        assert!(words.next().unwrap().parse::<u64>().is_ok());
        let before = names.len();
        let mut ended = false;
        for word in words {
            ended = word.is_empty();
            if !ended {
                names.push(word.to_string());
            }
        }
        if ended {
            break;
        }
        assert_ne!(names.len(), before);
    }
    assert_eq!(names.len(), 700);
    assert_eq!(names[699], "child-0699");
}

#[test]
fn domains_come_and_go() {
    let mut store = store();
    ask(&mut store, 0, kind::WATCH, 0, b"@releaseDomain\0gone\0").unwrap();
    ask(&mut store, 0, kind::WATCH, 0, b"@introduceDomain\0new\0").unwrap();
    ask(&mut store, 2, kind::WATCH, 0, b"@introduceDomain\0mine\0").unwrap();
    ask(&mut store, 1, kind::WRITE, 0, b"data/a\0x").unwrap();
    ask(&mut store, 0, kind::WRITE, 0, b"/local/domain/2/of-1\0x").unwrap();
    ask(&mut store, 0, kind::SET_PERMS, 0, b"/local/domain/2/of-1\0n1\0").unwrap();
    ask(&mut store, 2, kind::SET_PERMS, 0, b"data\0n2\0r1\0").unwrap();
    assert_eq!(ask(&mut store, 0, kind::IS_DOMAIN_INTRODUCED, 0, b"1\0"), Ok(b"T\0".to_vec()));
    store.has_shut_down(1);
    store.has_shut_down(1);
    assert_eq!(events(&mut store, 0), ["@releaseDomain|gone|"]);
    store.release(1);
    assert_eq!(events(&mut store, 0), ["@releaseDomain|gone|"]);
    store.check().unwrap();
    assert_eq!(store.tree().account(1).nodes, 0);
    for at in [&b"/local/domain/1\0"[..], b"/local/domain/2/of-1\0"] {
        assert_eq!(ask(&mut store, 0, kind::READ, 0, at), err("ENOENT"));
    }
    assert_eq!(ask(&mut store, 0, kind::GET_PERMS, 0, b"/local/domain/2/data\0"), Ok(b"n2\0".to_vec()));
    assert_eq!(ask(&mut store, 0, kind::INTRODUCE, 0, b"11\x001\x002\0"), err("ENOENT"));
    assert_eq!(ask(&mut store, 0, kind::INTRODUCE, 0, b"7\x001\x002\0"), ok());
    assert!(store.is_introduced(7));
    // The control domain may let others hear of it.
    assert_eq!(events(&mut store, 2), [""; 0]);
    ask(&mut store, 0, kind::SET_PERMS, 0, b"@introduceDomain\0n0\0r2\0").unwrap();
    events(&mut store, 2);
    store.introduce(8);
    assert_eq!(events(&mut store, 2), ["@introduceDomain|mine|"]);
    assert_eq!(ask(&mut store, 2, kind::GET_DOMAIN_PATH, 0, b"8\0"), Ok(b"/local/domain/8\0".to_vec()));
    assert_eq!(ask(&mut store, 0, kind::RELEASE, 0, b"8\0"), ok());
    assert!(!store.is_introduced(8));
}

#[test]
fn a_domain_acts_for_its_target() {
    let mut store = store();
    ask(&mut store, 1, kind::WRITE, 0, b"data/a\0x").unwrap();
    assert_eq!(ask(&mut store, 2, kind::READ, 0, b"/local/domain/1/data/a\0"), err("EACCES"));
    ask(&mut store, 0, kind::SET_TARGET, 0, b"2\x001\0").unwrap();
    assert_eq!(ask(&mut store, 2, kind::READ, 0, b"/local/domain/1/data/a\0"), Ok(b"x".to_vec()));
}

/// The tree done naively: one map, and a transaction is its requests, done again when it commits.
#[derive(Debug)]
struct Model(BTreeMap<String, (Vec<u8>, Vec<Entry>)>);

impl Model {
    fn of(store: &Store) -> Self {
        let each = |(at, node): (&str, &std::rc::Rc<super::tree::Node>)| {
            (at.to_string(), (node.value.to_vec(), node.perms.entries().collect()))
        };
        Self(store.tree().iter().map(each).collect())
    }

    fn may(perms: &[Entry], who: u16, read: bool) -> bool {
        let rights = perms[1..].iter().find(|entry| entry.domid == who).unwrap_or(&perms[0]).rights;
        who == 0 || perms[0].domid == who || rights & if read { 1 } else { 2 } != 0
    }

    fn get(&self, who: u16, at: &str, read: bool) -> Result<(), String> {
        let error = |name: &str| Err(name.to_string());
        if let Some((_, perms)) = self.0.get(at) {
            return if Self::may(perms, who, read) { Ok(()) } else { error("EACCES") };
        }
        let mut above = at;
        while let Some(next) = path::parent(above) {
            above = next;
            if let Some((_, perms)) = self.0.get(above) {
                return if Self::may(perms, who, read) { error("ENOENT") } else { error("EACCES") };
            }
        }
        error("EACCES")
    }

    fn make(&mut self, who: u16, at: &str) {
        if self.0.contains_key(at) {
            return;
        }
        let above = path::parent(at).unwrap();
        self.make(who, above);
        let mut perms = self.0[above].1.clone();
        if who != 0 {
            perms[0].domid = who;
        }
        self.0.insert(at.to_string(), (Vec::new(), perms));
    }

    fn ask(&mut self, who: u16, request: &Request) -> Reply {
        let at = &request.at;
        let reads = matches!(request.kind, kind::READ | kind::DIRECTORY | kind::GET_PERMS);
        let found = self.get(who, at, reads);
        let missing = found == Err("ENOENT".to_string());
        match request.kind {
            kind::READ => found.map(|()| self.0[at].0.clone()),
            kind::DIRECTORY => found.map(|()| {
                let own = |path: &&String| path::parent(path) == Some(at);
                let mut names: Vec<&str> = self.0.keys().filter(own).map(|path| path::leaf(path)).collect();
                names.sort_unstable();
                names.iter().flat_map(|name| name.bytes().chain([0])).collect()
            }),
            kind::GET_PERMS => found.map(|()| {
                let mut text = Vec::new();
                self.0[at].1.iter().for_each(|entry| entry.print(&mut text));
                text
            }),
            kind::WRITE | kind::MKDIR => {
                if !missing {
                    found?;
                }
                if missing || request.kind == kind::WRITE {
                    self.make(who, at);
                    self.0.get_mut(at).unwrap().0.clone_from(&request.rest);
                }
                ok()
            }
            kind::RM => {
                if missing {
                    let known = path::parent(at).is_some_and(|above| self.0.contains_key(above));
                    return if known { ok() } else { err("ENOENT") };
                }
                found?;
                let below = format!("{at}/");
                self.0.retain(|path, _| path != at && !path.starts_with(&below));
                ok()
            }
            kind::SET_PERMS => {
                found?;
                let perms: Vec<Entry> = String::from_utf8(request.rest.clone())
                    .unwrap()
                    .split_terminator('\0')
                    .map(|text| Entry::parse(text).unwrap())
                    .collect();
                let node = self.0.get_mut(at).unwrap();
                if who != 0 && node.1[0].domid != who {
                    return err("EACCES");
                }
                if who != 0 && perms[0].domid != who {
                    return err("EPERM");
                }
                node.1 = perms;
                ok()
            }
            other => panic!("{other}"),
        }
    }
}

#[derive(Clone, Debug)]
struct Request {
    kind: u32,
    at: String,
    rest: Vec<u8>,
}

impl Request {
    fn payload(&self) -> Vec<u8> {
        [self.at.as_bytes(), b"\0", &self.rest].concat()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Ask(u16, bool, Request),
    Start(u16),
    End(u16, bool),
}

fn any_request() -> impl Strategy<Value = Request> {
    let at = prop_oneof![
        Just("/local/domain/1/data".to_string()),
        "/local/domain/[12]/data/[ab]".prop_map(|at| at),
        "/local/domain/[12]/data/[ab]/[ab]".prop_map(|at| at),
        "/[ab]/[ab]".prop_map(|at| at),
    ];
    let kinds = proptest::sample::select(vec![
        kind::READ,
        kind::DIRECTORY,
        kind::GET_PERMS,
        kind::WRITE,
        kind::WRITE,
        kind::MKDIR,
        kind::RM,
        kind::SET_PERMS,
    ]);
    (kinds, at, "[xy]{0,2}", "[nrwb][012]\0([nrwb][12]\0){0,2}").prop_map(|(kind, at, value, perms)| {
        let rest = match kind {
            kind::WRITE => value.into_bytes(),
            kind::SET_PERMS => perms.into_bytes(),
            _ => Vec::new(),
        };
        Request { kind, at, rest }
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3_u16, any::<bool>(), any_request()).prop_map(|(who, tx, ask)| Step::Ask(who, tx, ask)),
        1 => (0..3_u16).prop_map(Step::Start),
        2 => (0..3_u16, proptest::bool::weighted(0.8)).prop_map(|(who, commit)| Step::End(who, commit)),
    ]
}

/// A transaction as the model has it.
struct Open {
    id: u32,
    said: Vec<(Request, Reply)>,
    /// How many changes there had been.
    began: u32,
}

proptest! {
    /// Every answer is the model's. What a committed transaction was told is what it would have been told
    /// had it run at the commit; one that fails does so only if something has changed.
    #[test]
    fn answers_as_the_model(steps in proptest::collection::vec(any_step(), 1..60)) {
        let mut store = store();
        let mut model = Model::of(&store);
        let mut open: [Option<Open>; 3] = [None, None, None];
        // Requests outside of transactions that may have changed something, and commits.
        let mut changes = 0;
        for step in steps {
            match step {
                Step::Ask(who, inside, request) => {
                    let tx = open[usize::from(who)].as_mut().filter(|_| inside);
                    let id = tx.as_ref().map_or(0, |tx| tx.id);
                    let reply = ask(&mut store, who, request.kind, id, &request.payload());
                    match tx {
                        Some(tx) => tx.said.push((request, reply)),
                        None => {
                            prop_assert_eq!(&model.ask(who, &request), &reply, "{} {:?}", who, request);
                            changes += 1;
                        }
                    }
                }
                Step::Start(who) if open[usize::from(who)].is_none() => {
                    let id = ask(&mut store, who, kind::TRANSACTION_START, 0, b"\0").unwrap();
                    let id = String::from_utf8(id).unwrap().trim_end_matches('\0').parse().unwrap();
                    open[usize::from(who)] = Some(Open { id, said: Vec::new(), began: changes });
                }
                Step::Start(_) => {}
                Step::End(who, commit) => {
                    let Some(tx) = open[usize::from(who)].take() else { continue };
                    let word: &[u8] = if commit { b"T\0" } else { b"F\0" };
                    match ask(&mut store, who, kind::TRANSACTION_END, tx.id, word) {
                        Ok(_) if commit => {
                            for (request, reply) in tx.said {
                                prop_assert_eq!(&model.ask(who, &request), &reply, "{:?}", request);
                            }
                            changes += 1;
                        }
                        Ok(_) => {}
                        Err(error) => {
                            prop_assert!(commit && error == "EAGAIN", "{}", error);
                            prop_assert_ne!(changes, tx.began, "a conflict with nobody");
                        }
                    }
                }
            }
            store.check().unwrap();
            prop_assert_eq!(&Model::of(&store).0, &model.0);
        }
    }

    /// Without a second writer no transaction fails.
    #[test]
    fn alone_every_commit_succeeds(asks in proptest::collection::vec(any_request(), 0..20), who in 0..3_u16) {
        let mut store = store();
        let id = ask(&mut store, who, kind::TRANSACTION_START, 0, b"\0").unwrap();
        let id = String::from_utf8(id).unwrap().trim_end_matches('\0').parse().unwrap();
        for request in asks {
            let _ = ask(&mut store, who, request.kind, id, &request.payload());
        }
        prop_assert_eq!(ask(&mut store, who, kind::TRANSACTION_END, id, b"T\0"), ok());
    }

    /// Whatever a client sends, the store stays whole, others' nodes stay theirs, and the client's queue
    /// stays short.
    #[test]
    fn noise_hurts_nobody(
        messages_sent in proptest::collection::vec(
            (0..30_u32, 0..4_u32, "[-/@ab0-9nrwbTF\0]{0,40}", proptest::collection::vec(any::<u8>(), 0..4)),
            0..80,
        ),
        tail in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut store = store();
        ask(&mut store, 2, kind::WRITE, 0, b"data/mine\0x").unwrap();
        let before: Vec<_> = Model::of(&store).0.into_iter().filter(|(at, _)| !at.contains("/1")).collect();
        'all: for (kind, tx_id, text, noise) in messages_sent {
            let mut payload = text.into_bytes();
            payload.extend(noise);
            let bytes = message(Header { kind, req_id: 1, tx_id, len: 0 }, &payload);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                match store.receive(1, rest) {
                    Ok(0) => break 'all,
                    Ok(taken) => rest = &rest[taken..],
                    Err(_) => unreachable!("the length is right"),
                }
            }
            store.turn(1, &mut Recorder::default());
        }
        for part in tail.chunks(5) {
            if store.receive(1, part).is_err() {
                store.reset(1);
            }
            store.turn(1, &mut Recorder::default());
        }
        store.check().unwrap();
        let after: Vec<_> = Model::of(&store).0.into_iter().filter(|(at, _)| !at.contains("/1")).collect();
        prop_assert_eq!(before, after);
        let queued: usize = messages(&mut store, 1).iter().map(|(_, payload)| HEADER + payload.len()).sum();
        prop_assert!(queued <= ANSWERS + EVENTS + 4 * (HEADER + PAYLOAD_MAX));
    }

    #[test]
    fn permissions_survive_the_wire(text in "[nrwb][0-9]{1,5}") {
        if let Ok(entry) = Entry::parse(&text) {
            let mut back = Vec::new();
            entry.print(&mut back);
            let digits = text[1..].trim_start_matches('0');
            let digits = if digits.is_empty() { "0" } else { digits };
            prop_assert_eq!(back, format!("{}{digits}\0", &text[..1]).into_bytes());
        }
    }

    #[test]
    fn valid_paths_have_valid_parents(at in "(/[-a@_0-9]{1,3}){1,5}") {
        prop_assert!(path::is_valid(&at));
        for above in path::upwards(&at) {
            prop_assert!(path::is_valid(above));
        }
        prop_assert_eq!(path::child(path::parent(&at).unwrap(), path::leaf(&at)), at);
    }
}

#[test]
fn an_owner_needs_no_entry() {
    use super::perms::{OWNER, READ, WRITE, Who};
    let perms = Perms::new(1, 0).and(2, READ);
    let of = |id, target, privileged| perms.of(Who { id, target, privileged });
    assert_eq!(of(1, None, false), READ | WRITE | OWNER);
    assert_eq!(of(2, None, false), READ);
    assert_eq!(of(3, None, false), 0);
    assert_eq!(of(3, Some(1), false), READ | WRITE | OWNER);
    assert_eq!(of(0, None, true), READ | WRITE | OWNER);
}
