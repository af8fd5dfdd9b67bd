//! Connections and requests.
//!
//! The owner of a [`Store`] tells it which domains there are, hands it what their rings bring
//! ([`Store::receive`]), lets it do one request of a domain at a time ([`Store::turn`]) and carries away what
//! it has to say ([`Store::output`], [`Store::sent`]).
//!
//! **Bounds.** A request is not looked at before the answers to earlier ones are below [`ANSWERS`] bytes, so
//! a client that does not read its ring waits for itself. Events for it are queued up to [`EVENTS`] bytes;
//! beyond that its watches are marked, and each marked one fires once, on its own path, when there is room:
//! an event says "look again", so one serves as well as many.
#![forbid(unsafe_code)]

use alloc::{
    collections::{BTreeMap, VecDeque},
    format,
    rc::Rc,
    string::{String, ToString as _},
    vec::Vec,
};

use serde::{Deserialize, Serialize};

use super::{
    path,
    perms::{Entry, Perms, READ, Who},
    tree::{Change, Quota, Transaction, Tree},
    watch::{Watch, Watches},
    wire::{self, Error, Header, PAYLOAD_MAX, Parser, TooLong, kind},
};

/// Bytes of unfetched answers at which a client's requests wait.
pub const ANSWERS: usize = 8192;
/// Bytes of unfetched events at which further ones are merged.
pub const EVENTS: usize = 32 << 10;

/// What the store asks of the one who runs it.
pub trait Host {
    /// Connects a domain, by the port it offers.
    ///
    /// # Errors
    /// It cannot.
    fn introduce(&mut self, domid: u16, port: u32) -> Result<(), Error>;
    /// Leaves a domain's ring alone from now on.
    fn release(&mut self, domid: u16);
    /// Prints a line for the operator.
    fn print(&mut self, line: &str);
}

/// One client.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Connection {
    target: Option<u16>,
    parser: Parser,
    transactions: BTreeMap<u32, Transaction>,
    next_transaction: u32,
    /// Messages for it, and whether each is an event.
    queue: VecDeque<(Vec<u8>, bool)>,
    /// Bytes of the first one that are gone.
    sent: usize,
    answers: usize,
    events: usize,
    /// Some of its watches are behind.
    behind: bool,
    /// It was seen shut down, and its end told.
    ended: bool,
}

impl Connection {
    fn push(&mut self, message: Vec<u8>, event: bool) {
        *(if event { &mut self.events } else { &mut self.answers }) += message.len();
        self.queue.push_back((message, event));
    }
}

/// The payload of an answer.
type Answer = Result<Vec<u8>, Error>;

/// The store.
#[derive(Debug, Serialize, Deserialize)]
pub struct Store {
    tree: Tree,
    watches: Watches,
    connections: BTreeMap<u16, Connection>,
}

const OK: &[u8] = b"OK\0";

fn ok() -> Answer {
    Ok(OK.to_vec())
}

impl Store {
    /// An empty store.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        let mut store =
            Self { tree: Tree::new(quota), watches: Watches::default(), connections: BTreeMap::new() };
        for at in ["/tool/xenstored", "/local/domain", "/vm"] {
            store.keep(at, b"", &Perms::new(0, if at == "/vm" { 0 } else { READ }));
        }
        store
    }

    /// The tree, to look at.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Whether a domain is connected.
    #[must_use]
    pub fn is_introduced(&self, domid: u16) -> bool {
        self.connections.contains_key(&domid)
    }

    /// Whether a client watches anything at a path or below.
    #[must_use]
    pub fn watches_below(&self, domid: u16, at: &str) -> bool {
        self.watches.any_below(domid, at)
    }

    /// Sets a node on the store's own account, as a toolstack would: its value and who may do what with it.
    pub fn keep(&mut self, at: &str, value: &[u8], perms: &Perms) {
        let (mut view, root) = self.tree.own_view();
        // The store may do everything, and its paths are well formed.
        let done = view.write(root, at, value).and_then(|()| view.set_perms(root, at, perms.clone()));
        debug_assert!(done.is_ok(), "{at}: {done:?}");
        let changes = view.changes;
        self.fire(changes);
    }

    /// Removes a node and all below it, on the store's own account.
    pub fn discard(&mut self, at: &str) {
        let (mut view, root) = self.tree.own_view();
        // It need not be there.
        let _ = view.remove(root, at);
        let changes = view.changes;
        self.fire(changes);
    }

    /// Connects a domain and makes its home.
    pub fn introduce(&mut self, domid: u16) {
        if self.connections.contains_key(&domid) {
            self.special("@introduceDomain");
            return;
        }
        self.connections.insert(domid, Connection { next_transaction: 1, ..Connection::default() });
        let home = path::home(domid);
        let read_only = Perms::new(0, 0).and(domid, READ);
        let own = Perms::new(domid, 0);
        self.keep(&home, b"", &read_only);
        self.keep(&path::child(&home, "domid"), domid.to_string().as_bytes(), &read_only);
        for leaf in ["control", "device"] {
            self.keep(&path::child(&home, leaf), b"", &read_only);
        }
        // What Linux and its tools write without being asked, and where a driver domain has its devices.
        for leaf in ["data", "error", "drivers", "feature", "attr", "backend"] {
            self.keep(&path::child(&home, leaf), b"", &own);
        }
        // Where Linux says which of the operator's wishes it follows, and takes them from.
        for leaf in ["shutdown", "feature-poweroff", "feature-reboot", "feature-suspend", "sysrq"] {
            self.keep(&path::child(&home, &format!("control/{leaf}")), b"", &own);
        }
        self.special("@introduceDomain");
    }

    /// Disconnects a domain: its watches and transactions go, its home, and every node it owns with all
    /// below.
    pub fn release(&mut self, domid: u16) {
        if self.connections.remove(&domid).is_none() {
            return;
        }
        self.watches.remove_all(domid);
        let mut gone: Vec<String> = self
            .tree
            .iter()
            .filter(|(_, node)| node.perms.owner() == domid && domid != 0)
            .map(|(at, _)| String::from(at))
            .collect();
        gone.push(path::home(domid));
        let (mut view, root) = self.tree.own_view();
        for at in gone {
            // It may have gone with one above it.
            let _ = view.remove(root, &at);
        }
        let changes = view.changes;
        self.fire(changes);
        self.tree.forget(domid);
        self.special("@releaseDomain");
    }

    /// A domain has shut down; told once. Whether it was told now.
    pub fn has_shut_down(&mut self, domid: u16) -> bool {
        let connection = self.connections.get_mut(&domid);
        let new = connection.is_some_and(|connection| !core::mem::replace(&mut connection.ended, true));
        if new {
            self.special("@releaseDomain");
        }
        new
    }

    /// A client begins anew: nothing of what it said or had asked for remains, but its nodes do.
    pub fn reset(&mut self, domid: u16) {
        if let Some(connection) = self.connections.get_mut(&domid) {
            let (target, ended) = (connection.target, connection.ended);
            *connection = Connection { target, ended, next_transaction: 1, ..Connection::default() };
            self.watches.remove_all(domid);
        }
    }

    /// Takes bytes from a client, as many as its present request wants; how many.
    ///
    /// # Errors
    /// It does not keep to the protocol; what comes after cannot be understood.
    pub fn receive(&mut self, domid: u16, bytes: &[u8]) -> Result<usize, TooLong> {
        match self.connections.get_mut(&domid) {
            Some(connection) => connection.parser.take(bytes),
            None => Ok(0),
        }
    }

    /// How many bytes a client's present request lacks.
    #[must_use]
    pub fn wants(&self, domid: u16) -> usize {
        self.connections.get(&domid).map_or(0, |connection| connection.parser.wants())
    }

    /// Does a client's request, if it is complete and earlier answers have been fetched; whether it did.
    pub fn turn(&mut self, domid: u16, host: &mut dyn Host) -> bool {
        let Some(connection) = self.connections.get_mut(&domid) else { return false };
        if connection.answers >= ANSWERS {
            return false;
        }
        let Some((header, payload)) = connection.parser.request() else { return false };
        let mut changes = Vec::new();
        let mut first_event = None;
        let mut after = After::Nothing;
        let answer = self.request(domid, header, &payload, host, &mut changes, &mut first_event, &mut after);
        let (kind, payload) = match answer {
            Ok(payload) if payload.len() > PAYLOAD_MAX => (kind::ERROR, error_text(Error::TooBig)),
            Ok(payload) => (header.kind, payload),
            Err(error) => (kind::ERROR, error_text(error)),
        };
        let message = wire::message(Header { kind, len: 0, ..header }, &payload);
        if let Some(connection) = self.connections.get_mut(&domid) {
            connection.push(message, false);
            if let Some((spelt, token)) = first_event {
                connection.push(event_message(&spelt, &token), true);
            }
        }
        self.fire(changes);
        match after {
            After::Nothing => {}
            After::Introduced(other) => self.introduce(other),
            After::Released(other) => {
                host.release(other);
                self.release(other);
            }
        }
        true
    }

    /// The next bytes for a client.
    #[must_use]
    pub fn output(&self, domid: u16) -> &[u8] {
        match self.connections.get(&domid) {
            Some(connection) => {
                connection.queue.front().map_or(&[], |(message, _)| &message[connection.sent..])
            }
            None => &[],
        }
    }

    /// So many of them are on their way.
    pub fn sent(&mut self, domid: u16, count: usize) {
        let Some(connection) = self.connections.get_mut(&domid) else { return };
        connection.sent += count;
        if let Some((message, event)) = connection.queue.front()
            && connection.sent >= message.len()
        {
            *(if *event { &mut connection.events } else { &mut connection.answers }) -= message.len();
            connection.sent = 0;
            connection.queue.pop_front();
        }
        self.catch_up(domid);
    }

    /// Queues an event for each watch that is behind, while there is room.
    fn catch_up(&mut self, domid: u16) {
        let Some(connection) = self.connections.get_mut(&domid) else { return };
        if !connection.behind || connection.events >= EVENTS / 2 {
            return;
        }
        connection.behind = false;
        self.watches.behind(domid, &mut |watch| {
            if connection.events >= EVENTS {
                connection.behind = true;
                return false;
            }
            watch.behind = false;
            connection.push(event_message(&watch.spelt, &watch.token), true);
            true
        });
    }

    fn who(&self, domid: u16) -> Who {
        let target = self.connections.get(&domid).and_then(|connection| connection.target);
        Who { id: domid, target, privileged: domid == 0 }
    }

    /// Tells of one of the special paths.
    fn special(&mut self, at: &str) {
        self.fire(alloc::vec![Change { path: String::from(at), removed: false, before: None }]);
    }

    /// Tells those who watch, if they may read the node, as it was or is, or its parent.
    fn fire(&mut self, changes: Vec<Change>) {
        let Self { tree, watches, connections } = self;
        for change in changes {
            let perms = |at: &str| tree.get(at).map(|node| node.perms.clone());
            let seen: Vec<Rc<Perms>> =
                [change.before, perms(&change.path), path::parent(&change.path).and_then(perms)]
                    .into_iter()
                    .flatten()
                    .collect();
            watches.concerned(&change.path, change.removed, &mut |watch, shown| {
                let Some(connection) = connections.get_mut(&watch.domid) else { return };
                let who = Who { id: watch.domid, target: connection.target, privileged: watch.domid == 0 };
                if watch.behind || !seen.iter().any(|perms| perms.of(who) & READ != 0) {
                    return;
                }
                if connection.events >= EVENTS {
                    watch.behind = true;
                    connection.behind = true;
                } else {
                    connection.push(event_message(shown, &watch.token), true);
                }
            });
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what a request may bring about, each filled by few")]
    fn request(
        &mut self,
        domid: u16,
        header: Header,
        payload: &[u8],
        host: &mut dyn Host,
        changes: &mut Vec<Change>,
        first_event: &mut Option<(String, String)>,
        after: &mut After,
    ) -> Answer {
        let who = self.who(domid);
        let privileged = if who.privileged { Ok(()) } else { Err(Error::Acces) };
        match header.kind {
            kind::DIRECTORY..=kind::GET_PERMS | kind::WRITE..=kind::SET_PERMS | kind::DIRECTORY_PART => {
                self.on_tree(who, header, payload, changes)
            }
            kind::WATCH => self.watch(domid, payload, first_event),
            kind::UNWATCH => self.unwatch(domid, payload),
            kind::RESET_WATCHES => {
                self.watches.remove_all(domid);
                if let Some(connection) = self.connections.get_mut(&domid) {
                    connection.transactions.clear();
                }
                ok()
            }
            kind::TRANSACTION_START => self.start_transaction(domid, header.tx_id),
            kind::TRANSACTION_END => self.end_transaction(who, header.tx_id, payload, changes),
            kind::GET_DOMAIN_PATH => {
                let of: u16 = wire::number(wire::one(payload)?)?;
                Ok(terminated(&path::home(of)))
            }
            kind::IS_DOMAIN_INTRODUCED => {
                let of: u16 = wire::number(wire::one(payload)?)?;
                Ok(if self.is_introduced(of) { b"T\0".to_vec() } else { b"F\0".to_vec() })
            }
            kind::INTRODUCE => {
                privileged?;
                let words = wire::strings(payload)?;
                let [of, _, port, ..] = words[..] else { return Err(Error::Inval) };
                let (of, port) = (wire::number(of)?, wire::number(port)?);
                if !self.is_introduced(of) {
                    host.introduce(of, port)?;
                }
                *after = After::Introduced(of);
                ok()
            }
            kind::RELEASE => {
                privileged?;
                let of = wire::number(wire::one(payload)?)?;
                if !self.is_introduced(of) {
                    return Err(Error::NoEnt);
                }
                *after = After::Released(of);
                ok()
            }
            kind::RESUME => {
                privileged?;
                let of = wire::number(wire::one(payload)?)?;
                self.connections.get_mut(&of).ok_or(Error::NoEnt)?.ended = false;
                ok()
            }
            kind::SET_TARGET => {
                privileged?;
                let words = wire::strings(payload)?;
                let [of, target] = words[..] else { return Err(Error::Inval) };
                let (of, target) = (wire::number::<u16>(of)?, wire::number::<u16>(target)?);
                if !self.is_introduced(target) {
                    return Err(Error::NoEnt);
                }
                self.connections.get_mut(&of).ok_or(Error::NoEnt)?.target = Some(target);
                ok()
            }
            kind::CONTROL => {
                privileged?;
                self.control(payload, host)
            }
            _ => Err(Error::NoSys),
        }
    }

    fn on_tree(&mut self, who: Who, header: Header, payload: &[u8], changes: &mut Vec<Change>) -> Answer {
        let Self { tree, connections, .. } = self;
        let tx = match header.tx_id {
            0 => None,
            id => {
                let connection = connections.get_mut(&who.id).ok_or(Error::NoEnt)?;
                Some(connection.transactions.get_mut(&id).ok_or(Error::NoEnt)?)
            }
        };
        let mut view = tree.view(tx);
        let (spelt, rest) = wire::first(payload)?;
        let at = match header.kind {
            kind::GET_PERMS | kind::SET_PERMS if path::is_special(spelt) => String::from(spelt),
            _ => path::absolute(spelt, who.id)?,
        };
        let alone = if rest.is_empty() { Ok(()) } else { Err(Error::Inval) };
        let answer = match header.kind {
            kind::READ => alone.and_then(|()| Ok(view.node(who, &at, READ)?.value.to_vec())),
            kind::DIRECTORY => alone.and_then(|()| {
                let node = view.node(who, &at, READ)?;
                Ok(node.children.iter().flat_map(|leaf| leaf.bytes().chain([0])).collect())
            }),
            kind::DIRECTORY_PART => {
                let offset: usize = wire::number(wire::one(rest)?)?;
                let node = view.node(who, &at, READ)?;
                Ok(directory_part(node.generation, node.children.iter().map(|leaf| &**leaf), offset))
            }
            kind::GET_PERMS => alone.and_then(|()| {
                let node = view.node(who, &at, READ)?;
                let mut text = Vec::new();
                node.perms.entries().for_each(|entry| entry.print(&mut text));
                Ok(text)
            }),
            kind::WRITE => view.write(who, &at, rest).and_then(|()| ok()),
            kind::MKDIR => alone.and_then(|()| view.mkdir(who, &at)).and_then(|()| ok()),
            kind::RM => alone.and_then(|()| view.remove(who, &at)).and_then(|()| ok()),
            kind::SET_PERMS => {
                let entries: Result<Vec<Entry>, Error> =
                    wire::strings(rest)?.into_iter().map(Entry::parse).collect();
                view.set_perms(who, &at, Perms::from_entries(&entries?)?).and_then(|()| ok())
            }
            _ => Err(Error::NoSys),
        };
        changes.append(&mut view.changes);
        answer
    }

    fn watch(&mut self, domid: u16, payload: &[u8], first_event: &mut Option<(String, String)>) -> Answer {
        let (at, spelt, token) = watched(domid, payload)?;
        if self.watches.count(domid) >= self.tree.quota().watches && domid != 0 {
            return Err(Error::TooBig);
        }
        let (spelt, token) = (String::from(spelt), String::from(token));
        let watch = Watch { domid, spelt: spelt.clone(), token: token.clone(), behind: false };
        if !self.watches.add(&at, watch) {
            return Err(Error::Exist);
        }
        *first_event = Some((spelt, token));
        ok()
    }

    fn unwatch(&mut self, domid: u16, payload: &[u8]) -> Answer {
        let (at, _, token) = watched(domid, payload)?;
        if self.watches.remove(&at, domid, token) { ok() } else { Err(Error::NoEnt) }
    }

    fn start_transaction(&mut self, domid: u16, inside: u32) -> Answer {
        let most = self.tree.quota().transactions;
        let connection = self.connections.get_mut(&domid).ok_or(Error::NoEnt)?;
        if inside != 0 {
            return Err(Error::Busy);
        }
        if connection.transactions.len() >= most && domid != 0 {
            return Err(Error::NoSpc);
        }
        // The next number that is free; there are more numbers than transactions.
        let mut id = connection.next_transaction;
        while id == 0 || connection.transactions.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        connection.next_transaction = id.wrapping_add(1);
        connection.transactions.insert(id, Transaction::default());
        Ok(terminated(&id.to_string()))
    }

    fn end_transaction(&mut self, who: Who, id: u32, payload: &[u8], changes: &mut Vec<Change>) -> Answer {
        let commit = match payload {
            b"T\0" => true,
            b"F\0" => false,
            _ => return Err(Error::Inval),
        };
        let connection = self.connections.get_mut(&who.id).ok_or(Error::NoEnt)?;
        let tx = connection.transactions.remove(&id).ok_or(Error::NoEnt)?;
        if commit {
            changes.append(&mut self.tree.commit(tx, who)?);
        }
        ok()
    }

    fn control(&self, payload: &[u8], host: &mut dyn Host) -> Answer {
        let words = wire::strings(payload)?;
        match words[..] {
            ["help"] => Ok(terminated("check\nhelp\nprint <text>\nquota [<domid>]")),
            ["check"] => match self.check() {
                Ok(()) => ok(),
                Err(what) => {
                    host.print(&what);
                    Err(Error::Io)
                }
            },
            ["print", text] => {
                host.print(&text.escape_debug().to_string());
                ok()
            }
            ["quota"] => Ok(terminated(&alloc::format!("{:?}", self.tree.quota()))),
            ["quota", of] => {
                let of = wire::number(of)?;
                let (account, watches) = (self.tree.account(of), self.watches.count(of));
                Ok(terminated(&alloc::format!(
                    "nodes: {}\nbytes: {}\nwatches: {watches}",
                    account.nodes,
                    account.bytes
                )))
            }
            _ => Err(Error::Inval),
        }
    }

    /// Whether every node has a parent that names it, and the other way round.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        for (at, node) in self.tree.iter() {
            if let Some(above) = path::parent(at) {
                let named = self.tree.get(above).is_some_and(|node| node.children.contains(path::leaf(at)));
                if !named {
                    return Err(alloc::format!("store: {at} is not among the children of {above}"));
                }
            }
            if let Some(lost) =
                node.children.iter().find(|leaf| self.tree.get(&path::child(at, leaf)).is_none())
            {
                return Err(alloc::format!("store: {at} has a child {lost} that is not there"));
            }
        }
        Ok(())
    }
}

/// What follows a request once it is answered.
enum After {
    Nothing,
    Introduced(u16),
    Released(u16),
}

fn terminated(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn error_text(error: Error) -> Vec<u8> {
    terminated(error.name())
}

fn event_message(at: &str, token: &str) -> Vec<u8> {
    let header = Header { kind: wire::kind::WATCH_EVENT, ..Header::default() };
    let mut payload = terminated(at);
    payload.extend(terminated(token));
    wire::message(header, &payload)
}

/// The absolute path, the path as spelt, and the token of a WATCH or UNWATCH. A path below a watch joined
/// with the token must fit in an event: tokens are bounded so that it always does.
fn watched(domid: u16, payload: &[u8]) -> Result<(String, &str, &str), Error> {
    const TOKEN: usize = PAYLOAD_MAX - wire::ABS_PATH_MAX - 2;
    let words = wire::strings(payload)?;
    let [spelt, token] = words[..] else { return Err(Error::Inval) };
    if token.len() > TOKEN {
        return Err(Error::Inval);
    }
    let at = if path::is_special(spelt) { String::from(spelt) } else { path::absolute(spelt, domid)? };
    Ok((at, spelt, token))
}

/// One part of a long list of children: the generation, then names from a byte offset on, as many as fit;
/// an empty name says that the list ends here.
fn directory_part<'a>(generation: u64, leaves: impl Iterator<Item = &'a str>, offset: usize) -> Vec<u8> {
    let mut text = terminated(&generation.to_string());
    let room = PAYLOAD_MAX - text.len() - 1;
    let (mut at, mut used) = (0, 0);
    for leaf in leaves {
        let length = leaf.len() + 1;
        if at >= offset {
            if used + length > room {
                return text;
            }
            used += length;
            text.extend_from_slice(leaf.as_bytes());
            text.push(0);
        }
        at += length;
    }
    text.push(0);
    text
}
