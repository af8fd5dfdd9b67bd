//! `store_client`: asks the store through its ring, as a kernel does, and checks every answer.
//!
//! Without a word it goes through the protocol; its name in the store is to be `asks`.
//! `after` does the same once a hostile domain 3 has begun its flood. `hostile` breaks the ring's rules, reconnects, and floods the store with requests whose answers it does not
//! read, for two seconds. `mute` never says anything and leaves at once.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::{format, string::String, vec::Vec};
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use hv::abi::hvm::{hvm_op, params};
use hv::abi::xen::{DOMID_SELF, hypercall as number};
use tollgate_guests::rt::memory::{PAGE, pointer};
use tollgate_guests::rt::{boot, clock, events, hypercall, size};
use tollgate_guests::store::wire::{self, HEADER, Header, PAYLOAD_MAX, kind};
use tollgate_guests::{fail, guest, say};

guest!(main);

const RING: u32 = 1024;
const REQ_PROD: usize = 2052;
const RSP_CONS: usize = 2056;
const RSP_PROD: usize = 2060;
const FEATURES: usize = 2064;
const CONNECTION: usize = 2068;
const ERROR: usize = 2072;
/// Where a hostile domain 3 says to domain 2 that it begins.
const GO: &[u8] = b"/local/domain/3/data/go\0";
const PATIENCE: u64 = 20_000_000_000;

fn main() {
    let mut client = Client::new();
    match boot::cmdline() {
        "" => protocol(&mut client),
        "after" => {
            let deadline = clock::now() + PATIENCE;
            while client.ask(kind::READ, 0, GO).is_err() {
                if clock::now() > deadline {
                    fail!("domain 3 does not begin");
                }
                hypercall::yield_now();
            }
            protocol(&mut client);
        }
        "hostile" => hostile(&mut client),
        "mute" => say!("@result {{\"role\":\"store_client\",\"mode\":\"mute\",\"ok\":true}}"),
        other => fail!("command line: `{other}` is not understood"),
    }
}

fn param(index: u32) -> u64 {
    let mut request = hvm_op::Param { domid: DOMID_SELF, pad: 0, index, value: 0 };
    events::check("HVMOP_get_param", hypercall::op(number::HVM_OP, hvm_op::op::GET_PARAM, &mut request));
    request.value
}

struct Client {
    page: u64,
    port: u32,
    /// Answers, as far as they have come.
    bytes: Vec<u8>,
    /// Events that came before they were asked for.
    heard: Vec<String>,
    asked: u32,
}

impl Client {
    fn new() -> Self {
        let page = param(params::STORE_PFN) * PAGE;
        let port = u32::try_from(param(params::STORE_EVTCHN)).unwrap_or(0);
        if page == 0 || port == 0 {
            fail!("no store: page {page:#x}, port {port}");
        }
        Self { page, port, bytes: Vec::new(), heard: Vec::new(), asked: 0 }
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the page is there as long as the domain, and both sides reach it by atomics.
        unsafe { &*pointer(self.page).wrapping_add(offset).cast() }
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: as above.
        unsafe { &*pointer(self.page).wrapping_add(offset).cast() }
    }

    /// Waits until `ready`, looking again at every event.
    fn wait(&self, what: &str, ready: impl Fn() -> bool) {
        let deadline = clock::now() + PATIENCE;
        while !ready() {
            if clock::now() > deadline {
                fail!("the store: no {what}");
            }
            events::poll(&[self.port], clock::now() + 100_000_000);
        }
    }

    fn send(&self, mut bytes: &[u8]) {
        const REQ_CONS: usize = 2048;
        while !bytes.is_empty() {
            let produced = self.word(REQ_PROD).load(Ordering::Relaxed);
            let room = || RING - produced.wrapping_sub(self.word(REQ_CONS).load(Ordering::Acquire));
            self.wait("room for a request", || room() != 0);
            let count = bytes.len().min(size(room().into()));
            for (&byte, index) in bytes[..count].iter().zip(produced..) {
                self.byte(size((index % RING).into())).store(byte, Ordering::Relaxed);
            }
            bytes = &bytes[count..];
            let produced = produced.wrapping_add(u32::try_from(count).unwrap_or(0));
            self.word(REQ_PROD).store(produced, Ordering::Release);
            events::send(self.port);
        }
    }

    /// The next message.
    fn message(&mut self) -> (Header, Vec<u8>) {
        loop {
            if let Some(header) = self.bytes.first_chunk::<HEADER>() {
                let header = Header::decode(*header);
                let end = HEADER + size(header.len.into());
                if self.bytes.len() >= end {
                    let rest = self.bytes.split_off(end);
                    let message = core::mem::replace(&mut self.bytes, rest).split_off(HEADER);
                    return (header, message);
                }
            }
            let consumed = self.word(RSP_CONS).load(Ordering::Relaxed);
            let there = || self.word(RSP_PROD).load(Ordering::Acquire).wrapping_sub(consumed);
            self.wait("answer", || there() != 0);
            let count = there();
            for index in 0..count {
                let place = 1024 + size((consumed.wrapping_add(index) % RING).into());
                let byte = self.byte(place).load(Ordering::Relaxed);
                self.bytes.push(byte);
            }
            self.word(RSP_CONS).store(consumed.wrapping_add(count), Ordering::Release);
            events::send(self.port);
        }
    }

    /// A request and its answer; an error is its name.
    fn ask(&mut self, kind: u32, tx_id: u32, payload: &[u8]) -> Result<Vec<u8>, String> {
        self.asked += 1;
        let req_id = self.asked;
        self.send(&wire::message(Header { kind, req_id, tx_id, len: 0 }, payload));
        loop {
            let (header, payload) = self.message();
            let text = || String::from_utf8_lossy(&payload).trim_end_matches('\0').replace('\0', "|");
            if header.kind == kind::WATCH_EVENT {
                self.heard.push(text());
            } else if header.req_id != req_id {
                fail!("an answer to {} instead of {req_id}", header.req_id);
            } else if header.kind == kind::ERROR {
                return Err(text());
            } else {
                return Ok(payload);
            }
        }
    }

    /// Asks, and ends the guest if the answer is not the expected one.
    fn expect(&mut self, kind: u32, tx_id: u32, payload: &[u8], wanted: Result<&[u8], &str>) {
        let answer = self.ask(kind, tx_id, payload);
        if answer.as_deref().map_err(|name| name.as_str()) != wanted {
            fail!("request {kind} {}: {answer:?}", payload.escape_ascii());
        }
    }

    fn event(&mut self) -> String {
        while self.heard.is_empty() {
            let (header, payload) = self.message();
            if header.kind == kind::WATCH_EVENT {
                self.heard.push(String::from_utf8_lossy(&payload).trim_end_matches('\0').replace('\0', "|"));
            }
        }
        self.heard.remove(0)
    }

    fn expect_event(&mut self, wanted: &str) {
        let event = self.event();
        if event != wanted {
            fail!("the event {event} instead of {wanted}");
        }
    }
}

const OK: Result<&[u8], &str> = Ok(b"OK\0");

fn protocol(client: &mut Client) {
    let own = hypercall::domid();
    let start = clock::now();
    client.expect(kind::READ, 0, b"domid\0", Ok(format!("{own}").as_bytes()));
    client.expect(kind::READ, 0, b"name\0", Ok(b"asks"));
    client.expect(kind::WRITE, 0, b"data/a/b\0value", OK);
    client.expect(kind::READ, 0, format!("/local/domain/{own}/data/a/b\0").as_bytes(), Ok(b"value"));
    client.expect(kind::DIRECTORY, 0, b"data\0", Ok(b"a\0"));
    client.expect(kind::MKDIR, 0, b"data/c\0", OK);
    client.expect(kind::GET_PERMS, 0, b"data/c\0", Ok(format!("n{own}\0").as_bytes()));
    client.expect(kind::READ, 0, b"data/none\0", Err("ENOENT"));
    client.expect(kind::WRITE, 0, b"/local/domain/0/x\0", Err("EACCES"));
    client.expect(kind::RELEASE, 0, b"3\0", Err("EACCES"));
    client.expect(99, 0, b"\0", Err("ENOSYS"));
    client.expect(kind::IS_DOMAIN_INTRODUCED, 0, format!("{own}\0").as_bytes(), Ok(b"T\0"));

    client.expect(kind::WATCH, 0, b"data\0token\0", OK);
    client.expect_event("data|token");
    client.expect(kind::WRITE, 0, b"data/a\0new", OK);
    client.expect_event("data/a|token");
    client.expect(kind::RM, 0, b"data/a\0", OK);
    client.expect_event("data/a|token");

    let begin = |client: &mut Client| {
        let id = client.ask(kind::TRANSACTION_START, 0, b"\0").unwrap_or_else(|name| fail!("{name}"));
        let text = String::from_utf8_lossy(&id).trim_end_matches('\0').parse();
        text.unwrap_or_else(|_| fail!("no transaction number"))
    };
    let tx = begin(client);
    client.expect(kind::WRITE, tx, b"data/t\x001", OK);
    client.expect(kind::READ, 0, b"data/t\0", Err("ENOENT"));
    client.expect(kind::TRANSACTION_END, tx, b"T\0", OK);
    client.expect_event("data/t|token");
    let tx = begin(client);
    client.expect(kind::READ, tx, b"data/t\0", Ok(b"1"));
    client.expect(kind::WRITE, tx, b"data/u\0", OK);
    client.expect(kind::WRITE, 0, b"data/t\x002", OK);
    client.expect(kind::TRANSACTION_END, tx, b"T\0", Err("EAGAIN"));
    client.expect_event("data/t|token");
    client.expect(kind::UNWATCH, 0, b"data\0token\0", OK);

    // Longer than the ring, both ways.
    let value = [0x5a; 2000];
    client.expect(kind::WRITE, 0, &[b"data/long\0".as_slice(), &value].concat(), OK);
    for _ in 0..200 {
        client.expect(kind::READ, 0, b"data/long\0", Ok(&value));
    }
    client.expect(kind::RESET_WATCHES, 0, b"\0", OK);
    let ns = (clock::now() - start) / u64::from(client.asked);
    say!("@result {{\"role\":\"store_client\",\"requests\":{},\"ns_each\":{ns}}}", client.asked);
}

/// What no client should do; the others' test is that they do not notice.
fn hostile(client: &mut Client) {
    client.expect(kind::READ, 0, b"domid\0", Ok(format!("{}", hypercall::domid()).as_bytes()));
    if client.word(FEATURES).load(Ordering::Relaxed) & 3 != 3 {
        fail!("features {}", client.word(FEATURES).load(Ordering::Relaxed));
    }
    // Indices without sense, then a message that is too long: told in the page, and a new beginning helps.
    client.word(REQ_PROD).fetch_add(RING + 1, Ordering::SeqCst);
    refused(client, 2);
    let long = u32::try_from(PAYLOAD_MAX + 1).unwrap_or(0);
    client.send(&Header { kind: kind::WRITE, len: long, ..Header::default() }.encode());
    refused(client, 3);
    say!("@result {{\"role\":\"store_client\",\"mode\":\"hostile\",\"ok\":true}}");
    client.expect(kind::WRITE, 0, GO, OK);
    client.expect(kind::SET_PERMS, 0, &[GO, b"n3\0r2\0"].concat(), OK);
    // Requests for ever, answers never read: the ring fills and stays full.
    let request = wire::message(Header { kind: kind::READ, ..Header::default() }, b"domid\0");
    let deadline = clock::now() + PATIENCE / 10;
    while clock::now() < deadline {
        let room = || {
            let used = client.word(REQ_PROD).load(Ordering::Relaxed);
            RING.wrapping_sub(used.wrapping_sub(client.word(2048).load(Ordering::Acquire)))
        };
        if size(room().into()) >= request.len() {
            client.send(&request);
        }
        events::send(client.port);
    }
}

fn refused(client: &mut Client, wanted: u32) {
    events::send(client.port);
    client.wait("refusal", || client.word(ERROR).load(Ordering::Acquire) != 0);
    let error = client.word(ERROR).load(Ordering::Relaxed);
    if error != wanted {
        fail!("error {error} instead of {wanted}");
    }
    client.word(CONNECTION).store(1, Ordering::Release);
    events::send(client.port);
    client.wait("reconnection", || client.word(CONNECTION).load(Ordering::Acquire) == 0);
    client.bytes.clear();
    client.expect(kind::READ, 0, b"domid\0", Ok(format!("{}", hypercall::domid()).as_bytes()));
}
