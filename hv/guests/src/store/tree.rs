//! The nodes, and transactions over them.
//!
//! Nodes stand in one map by absolute path, each behind a counted pointer that a change replaces; every
//! change gets a new generation number. A **transaction** is a layer of its own over the map: the first
//! look at a path notes the generation found there (or that there was nothing), later looks and changes
//! stay in the layer. It commits if everything it looked at is still as it was, else the answer is
//! `EAGAIN`. So a commit is as if the whole transaction had run at that moment, and two transactions
//! conflict only over paths that both touched. Creating or removing a child touches its parent.
//!
//! Accounts: what a domain owns is counted in nodes and bytes, and refused (`ENOSPC`) beyond its quota. A
//! layer counts on its own account until the commit, which looks at the quotas once more. Who is privileged
//! has no quota.
#![forbid(unsafe_code)]

use alloc::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    string::String,
    vec::Vec,
};

use serde::{Deserialize, Serialize};

use super::{
    path,
    perms::{Perms, READ, WRITE, Who},
    wire::Error,
};

/// Bytes a node takes beside its path, value and permissions: map entries, headers, the parent's list.
const NODE_OVERHEAD: usize = 200;

/// A node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    /// What it holds.
    pub value: Rc<[u8]>,
    /// Who may do what.
    pub perms: Rc<Perms>,
    /// Names of its children.
    pub children: BTreeSet<Rc<str>>,
    /// Changes with every change, and is never used twice.
    pub generation: u64,
}

impl Node {
    fn new(value: &[u8], perms: Rc<Perms>) -> Self {
        Self { value: value.into(), perms, children: BTreeSet::new(), generation: 0 }
    }

    fn bytes(&self, path: &str) -> usize {
        NODE_OVERHEAD + 2 * path.len() + self.value.len() + 8 * self.perms.count()
    }
}

/// What a domain may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Quota {
    /// Nodes it owns.
    pub nodes: usize,
    /// Bytes of these.
    pub bytes: usize,
    /// Bytes of one value.
    pub value: usize,
    /// Entries of a node's permissions.
    pub perms: usize,
    /// Watches.
    pub watches: usize,
    /// Transactions at a time.
    pub transactions: usize,
    /// Paths one transaction touches.
    pub touched: usize,
    /// Bytes of these and of what it writes.
    pub transaction: usize,
}

impl Quota {
    /// As Xen has them, and a bound on memory.
    pub const DEFAULT: Self = Self {
        nodes: 1000,
        bytes: 512 << 10,
        value: 2048,
        perms: 5,
        watches: 128,
        transactions: 10,
        touched: 1024,
        transaction: 128 << 10,
    };
}

/// What a domain has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Account {
    /// Nodes.
    pub nodes: usize,
    /// Bytes of these.
    pub bytes: usize,
}

/// A change that watches hear of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    /// What changed.
    pub path: String,
    /// It and everything below it is gone.
    pub removed: bool,
    /// Permissions before, if it was there.
    pub before: Option<Rc<Perms>>,
}

/// A path a transaction has touched.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Touched {
    /// The generation when it was first looked at.
    seen: Option<u64>,
    /// As the transaction has it.
    node: Option<Rc<Node>>,
    /// Whether that is other than what it found.
    changed: bool,
}

/// A layer over the tree.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Transaction {
    touched: BTreeMap<String, Touched>,
    changes: Vec<Change>,
    /// Bytes and nodes that it adds.
    account: Account,
    /// Bytes of what it has looked at.
    looked: usize,
}

/// The tree.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tree {
    nodes: BTreeMap<String, Rc<Node>>,
    accounts: BTreeMap<u16, Account>,
    generation: u64,
    quota: Quota,
    /// The owner of what nobody else owns.
    root: Who,
}

/// The tree as one request sees it.
pub struct View<'a> {
    tree: &'a mut Tree,
    tx: Option<&'a mut Transaction>,
    /// What the request changed.
    pub changes: Vec<Change>,
}

impl Tree {
    /// A root and the two special paths, all the control domain's.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        let root = Who { id: 0, target: None, privileged: true };
        let mut tree = Self { nodes: BTreeMap::new(), accounts: BTreeMap::new(), generation: 0, quota, root };
        for (at, rights) in [("/", READ), ("@introduceDomain", 0), ("@releaseDomain", 0)] {
            tree.put(at, Some(Node::new(b"", Rc::new(Perms::new(0, rights)))));
        }
        tree
    }

    /// A look without side effects.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Rc<Node>> {
        self.nodes.get(path)
    }

    /// What a domain has.
    #[must_use]
    pub fn account(&self, domid: u16) -> Account {
        self.accounts.get(&domid).copied().unwrap_or_default()
    }

    /// The quota.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// Every node.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Rc<Node>)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// The tree as the store itself uses it, for what it keeps about domains.
    pub fn own_view(&mut self) -> (View<'_>, Who) {
        let root = self.root;
        (View { tree: self, tx: None, changes: Vec::new() }, root)
    }

    /// The tree for one request.
    pub fn view<'a>(&'a mut self, tx: Option<&'a mut Transaction>) -> View<'a> {
        View { tree: self, tx, changes: Vec::new() }
    }

    fn put(&mut self, path: &str, node: Option<Node>) {
        let node = node.map(|node| {
            self.generation += 1;
            let account = self.accounts.entry(node.perms.owner()).or_default();
            account.nodes += 1;
            account.bytes += node.bytes(path);
            Rc::new(Node { generation: self.generation, ..node })
        });
        let old = match node {
            Some(node) => self.nodes.insert(String::from(path), node),
            None => self.nodes.remove(path),
        };
        if let Some(old) = old
            && let Some(account) = self.accounts.get_mut(&old.perms.owner())
        {
            account.nodes -= 1;
            account.bytes -= old.bytes(path);
        }
    }

    /// Ends a transaction with its changes made, or with nothing done.
    ///
    /// # Errors
    /// `EAGAIN`: something it looked at has changed; `ENOSPC`: over the quota by now.
    pub fn commit(&mut self, tx: Transaction, who: Who) -> Result<Vec<Change>, Error> {
        let same = |(path, touched): (&String, &Touched)| {
            self.nodes.get(path).map(|node| node.generation) == touched.seen
        };
        if !tx.touched.iter().all(same) {
            return Err(Error::Again);
        }
        let mut accounts: BTreeMap<u16, Account> = BTreeMap::new();
        for (path, touched) in tx.touched.iter().filter(|(_, touched)| touched.changed) {
            if let Some(node) = &touched.node {
                let owner = node.perms.owner();
                let account = accounts.entry(owner).or_insert_with(|| self.account(owner));
                account.nodes += 1;
                account.bytes += node.bytes(path);
            }
            if let Some(node) = self.nodes.get(path) {
                let owner = node.perms.owner();
                let account = accounts.entry(owner).or_insert_with(|| self.account(owner));
                // No underflow: the account had this node in it.
                account.nodes -= 1;
                account.bytes -= node.bytes(path);
            }
        }
        if !who.privileged && accounts.iter().any(|(&owner, &now)| self.is_over(owner, now)) {
            return Err(Error::NoSpc);
        }
        for (path, touched) in tx.touched {
            if touched.changed {
                self.put(&path, touched.node.map(Rc::unwrap_or_clone));
            }
        }
        Ok(tx.changes)
    }

    /// Whether an account is over the quota and has become larger.
    fn is_over(&self, owner: u16, now: Account) -> bool {
        let before = self.account(owner);
        owner != self.root.id
            && ((now.nodes > self.quota.nodes && now.nodes > before.nodes)
                || (now.bytes > self.quota.bytes && now.bytes > before.bytes))
    }

    /// Drops the permission entries of a domain that is gone, everywhere.
    pub fn forget(&mut self, domid: u16) {
        let mut generation = self.generation;
        for node in self.nodes.values_mut() {
            let mut perms = Perms::clone(&node.perms);
            if perms.forget(domid) {
                generation += 1;
                let account = self.accounts.entry(perms.owner()).or_default();
                account.bytes -= 8 * (node.perms.count() - perms.count());
                *node = Rc::new(Node { perms: Rc::new(perms), generation, ..Node::clone(node) });
            }
        }
        self.generation = generation;
    }
}

impl View<'_> {
    /// What stands at a path.
    ///
    /// # Errors
    /// `ENOSPC`: a transaction that touches too much.
    pub fn look(&mut self, path: &str) -> Result<Option<Rc<Node>>, Error> {
        let there = self.tree.nodes.get(path);
        let Some(tx) = &mut self.tx else { return Ok(there.cloned()) };
        if let Some(touched) = tx.touched.get(path) {
            return Ok(touched.node.clone());
        }
        let quota = self.tree.quota;
        let looked = NODE_OVERHEAD + path.len() + there.map_or(0, |node| node.value.len());
        if tx.touched.len() >= quota.touched || tx.looked + looked > quota.transaction {
            return Err(Error::NoSpc);
        }
        tx.looked += looked;
        let touched =
            Touched { seen: there.map(|node| node.generation), node: there.cloned(), changed: false };
        let node = touched.node.clone();
        tx.touched.insert(String::from(path), touched);
        Ok(node)
    }

    fn put(&mut self, path: &str, node: Option<Node>) -> Result<(), Error> {
        // Looked at before, so that it is there.
        self.look(path)?;
        match &mut self.tx {
            None => self.tree.put(path, node),
            Some(tx) => {
                self.tree.generation += 1;
                let generation = self.tree.generation;
                if let Some(touched) = tx.touched.get_mut(path) {
                    let size = |node: Option<&Node>| node.map_or(0, |node| node.bytes(path));
                    let (gone, new) = (size(touched.node.as_deref()), size(node.as_ref()));
                    tx.account.bytes = (tx.account.bytes + new).saturating_sub(gone);
                    let (gone, new) = (touched.node.is_some(), node.is_some());
                    tx.account.nodes =
                        (tx.account.nodes + usize::from(new)).saturating_sub(usize::from(gone));
                    touched.node = node.map(|node| Rc::new(Node { generation, ..node }));
                    touched.changed = true;
                }
            }
        }
        Ok(())
    }

    /// Whether somebody may own so much more.
    fn afford(&self, who: Who, owner: u16, more: Account) -> Result<(), Error> {
        let mut now = self.tree.account(owner);
        if let Some(tx) = &self.tx {
            if tx.looked + tx.account.bytes + more.bytes > self.tree.quota.transaction {
                return Err(Error::NoSpc);
            }
            now.nodes += tx.account.nodes;
            now.bytes += tx.account.bytes;
        }
        now.nodes += more.nodes;
        now.bytes += more.bytes;
        if !who.privileged && self.tree.is_over(owner, now) { Err(Error::NoSpc) } else { Ok(()) }
    }

    /// The rights on the nearest node above that exists: whoever has none there does not learn that
    /// something is missing.
    fn missing(&mut self, who: Who, at: &str, wanted: u8) -> Result<Error, Error> {
        for above in path::upwards(at).skip(1) {
            if let Some(node) = self.look(above)? {
                return Ok(if node.perms.of(who) & wanted != 0 { Error::NoEnt } else { Error::Acces });
            }
        }
        Ok(Error::Acces)
    }

    /// The node at a path, if `who` has all of the `wanted` rights.
    ///
    /// # Errors
    /// `ENOENT`, or `EACCES` also for what is missing where `who` may not look.
    pub fn node(&mut self, who: Who, at: &str, wanted: u8) -> Result<Rc<Node>, Error> {
        match self.look(at)? {
            Some(node) if node.perms.of(who) & wanted == wanted => Ok(node),
            Some(_) => Err(Error::Acces),
            None => Err(self.missing(who, at, wanted)?),
        }
    }

    fn note(&mut self, path: &str, removed: bool, before: Option<Rc<Perms>>) {
        let change = Change { path: String::from(path), removed, before };
        match &mut self.tx {
            Some(tx) => tx.changes.push(change),
            None => self.changes.push(change),
        }
    }

    /// Writes a value; makes the node and what is missing above it.
    ///
    /// # Errors
    /// As [`View::node`]; `ENOSPC`.
    pub fn write(&mut self, who: Who, at: &str, value: &[u8]) -> Result<(), Error> {
        if !who.privileged && value.len() > self.tree.quota.value {
            return Err(Error::NoSpc);
        }
        match self.node(who, at, WRITE) {
            Ok(node) => {
                let more = value.len().saturating_sub(node.value.len());
                self.afford(who, node.perms.owner(), Account { nodes: 0, bytes: more })?;
                let before = Some(node.perms.clone());
                self.put(at, Some(Node { value: value.into(), ..Node::clone(&node) }))?;
                self.note(at, false, before);
                Ok(())
            }
            Err(Error::NoEnt) => self.create(who, at, value),
            Err(error) => Err(error),
        }
    }

    /// Makes a node if it is not there.
    ///
    /// # Errors
    /// As [`View::node`]; `ENOSPC`.
    pub fn mkdir(&mut self, who: Who, at: &str) -> Result<(), Error> {
        match self.node(who, at, WRITE) {
            Ok(_) => Ok(()),
            Err(Error::NoEnt) => self.create(who, at, b""),
            Err(error) => Err(error),
        }
    }

    /// Makes a node and those missing above it. The caller found that `who` may write to the nearest that is
    /// there. New nodes have its permissions, and the maker for an owner.
    fn create(&mut self, who: Who, at: &str, value: &[u8]) -> Result<(), Error> {
        let mut new = Vec::new();
        let mut found = None;
        for step in path::upwards(at) {
            found = self.look(step)?;
            if found.is_some() {
                break;
            }
            new.push(step);
        }
        let above = found.ok_or(Error::Io)?;
        let perms = Perms::clone(&above.perms);
        let perms = Rc::new(if who.privileged { perms } else { perms.owned_by(who.id) });
        let sizes: usize = new.iter().map(|step| Node::new(b"", perms.clone()).bytes(step)).sum();
        self.afford(who, perms.owner(), Account { nodes: new.len(), bytes: sizes + value.len() })?;
        for &step in new.iter().rev() {
            let value = if step == at { value } else { b"" };
            self.put(step, Some(Node::new(value, perms.clone())))?;
            self.adopt(step, true)?;
        }
        self.note(at, false, None);
        Ok(())
    }

    /// Adds a node to its parent's children, or takes it out.
    fn adopt(&mut self, at: &str, present: bool) -> Result<(), Error> {
        let Some(above) = path::parent(at) else { return Ok(()) };
        let Some(node) = self.look(above)? else { return Ok(()) };
        let mut node = Node::clone(&node);
        if present {
            node.children.insert(path::leaf(at).into());
        } else {
            node.children.remove(path::leaf(at));
        }
        self.put(above, Some(node))
    }

    /// Removes a node and everything below it.
    ///
    /// # Errors
    /// As [`View::node`], but a missing node whose parent is there is no error; `EINVAL` for the root.
    pub fn remove(&mut self, who: Who, at: &str) -> Result<(), Error> {
        let node = match self.node(who, at, WRITE) {
            Ok(node) => node,
            Err(Error::NoEnt) => {
                let above = path::parent(at).ok_or(Error::Inval)?;
                return self.look(above)?.map(|_| ()).ok_or(Error::NoEnt);
            }
            Err(error) => return Err(error),
        };
        if at == "/" {
            return Err(Error::Inval);
        }
        // Everything below is found first, so that a transaction that touches too much is left as it was.
        let mut all = alloc::vec![String::from(at)];
        let mut next = 0;
        while let Some(step) = all.get(next).cloned() {
            if let Some(node) = self.look(&step)? {
                all.extend(node.children.iter().map(|leaf| path::child(&step, leaf)));
            }
            next += 1;
        }
        if let Some(above) = path::parent(at) {
            self.look(above)?;
        }
        for step in all.iter().rev() {
            self.put(step, None)?;
        }
        self.adopt(at, false)?;
        self.note(at, true, Some(node.perms.clone()));
        Ok(())
    }

    /// Changes a node's permissions.
    ///
    /// # Errors
    /// As [`View::node`]; `EPERM`: only the control domain gives a node to somebody else; `ENOSPC`.
    pub fn set_perms(&mut self, who: Who, at: &str, perms: Perms) -> Result<(), Error> {
        let node = self.node(who, at, WRITE | super::perms::OWNER)?;
        if !who.privileged && perms.owner() != node.perms.owner() {
            return Err(Error::Perm);
        }
        if !who.privileged && perms.count() > self.tree.quota.perms {
            return Err(Error::NoSpc);
        }
        let more = (8 * perms.count()).saturating_sub(8 * node.perms.count());
        self.afford(who, perms.owner(), Account { nodes: 0, bytes: more })?;
        self.put(at, Some(Node { perms: Rc::new(perms), ..Node::clone(&node) }))?;
        self.note(at, false, Some(node.perms.clone()));
        Ok(())
    }
}
