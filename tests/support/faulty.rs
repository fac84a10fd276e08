//! An object store that misbehaves as it is told, over any other one: for every test of faults and of crashes.
//!
//! What goes wrong is said by [`Rule`]s, which add up: each that matches a request has its effect. It is the only place that
//! forwards the trait by hand. Unit tests include this file too, so it knows nothing of opsctl. The program never holds it.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use tokio::sync::Semaphore;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Put,
    Get,
    List,
}

/// One request, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub op: Op,
    /// The key; of a LIST the folder.
    pub key: String,
    /// Bytes of the body of a PUT.
    pub bytes: usize,
    /// A PUT that may only create.
    pub create_only: bool,
}

/// Makes the error of a request from its key.
type MakeError = Arc<dyn Fn(&str) -> Error + Send + Sync>;

/// What happens to a request.
#[derive(Clone)]
enum Fault {
    /// It fails, and nothing of it reaches the store.
    Before(MakeError),
    /// It takes effect, and then fails: the answer is lost.
    After(MakeError),
    /// A PUT is answered with yes, and the object is not kept.
    Forgotten,
    /// A PUT takes effect, but only so many LISTs later is the object shown; without a number only when released.
    Unlisted(Option<usize>),
    /// Of the body of a GET only so many bytes come; with an error, the connection breaks then.
    Short(usize, Option<MakeError>),
    /// The body of a GET comes in pieces of this size, each when the gate lets one more through.
    Pieces(usize, Arc<Semaphore>),
}

/// Which requests, and what happens to them.
#[derive(Clone)]
pub struct Rule {
    op: Option<Op>,
    key: String,
    /// The first and the last of the matching requests that are meant, from 1.
    meant: (usize, usize),
    seen: usize,
    fault: Option<Fault>,
}

impl Rule {
    fn new(op: Option<Op>, key: &str) -> Self {
        Self { op, key: key.to_owned(), meant: (1, usize::MAX), seen: 0, fault: None }
    }

    /// Each PUT of a key that holds this text; with `$` at the end of the text, of a key that ends with it.
    pub fn put(key: &str) -> Self {
        Self::new(Some(Op::Put), key)
    }

    /// Each GET of such a key.
    pub fn get(key: &str) -> Self {
        Self::new(Some(Op::Get), key)
    }

    /// Each LIST.
    pub fn list() -> Self {
        Self::new(Some(Op::List), "")
    }

    /// Each request of this kind for such a key.
    pub fn of(op: Op, key: &str) -> Self {
        Self::new(Some(op), key)
    }

    /// Only the n-th of them, from 1.
    #[must_use]
    pub fn nth(mut self, n: usize) -> Self {
        self.meant = (n, n);
        self
    }

    /// Only so many of them, starting with one: a burst.
    #[must_use]
    pub fn burst(mut self, from: usize, length: usize) -> Self {
        self.meant = (from, from.saturating_add(length - 1));
        self
    }

    fn with(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Fails before it has any effect.
    #[must_use]
    pub fn fails(self, error: impl Fn(&str) -> Error + Send + Sync + 'static) -> Self {
        self.with(Fault::Before(Arc::new(error)))
    }

    /// Takes effect, and its answer is lost.
    #[must_use]
    pub fn loses_its_answer(self, error: impl Fn(&str) -> Error + Send + Sync + 'static) -> Self {
        self.with(Fault::After(Arc::new(error)))
    }

    /// Is answered with yes, and nothing is kept.
    #[must_use]
    pub fn keeps_nothing(self) -> Self {
        self.with(Fault::Forgotten)
    }

    /// Takes effect, and is missing from the next `lists` LISTs.
    #[must_use]
    pub fn stays_unlisted_for(self, lists: usize) -> Self {
        self.with(Fault::Unlisted(Some(lists)))
    }

    /// Takes effect, and is missing from LISTs until [`Faulty::release`].
    #[must_use]
    pub fn stays_unlisted(self) -> Self {
        self.with(Fault::Unlisted(None))
    }

    /// The body ends after so many bytes, as if it were complete.
    #[must_use]
    pub fn ends_early(self, bytes: usize) -> Self {
        self.with(Fault::Short(bytes, None))
    }

    /// The connection breaks after so many bytes of the body.
    #[must_use]
    pub fn breaks_off(self, bytes: usize, error: impl Fn(&str) -> Error + Send + Sync + 'static) -> Self {
        self.with(Fault::Short(bytes, Some(Arc::new(error))))
    }

    /// The body comes in pieces, each when `gate` has a permit for it.
    #[must_use]
    pub fn drips(self, piece: usize, gate: &Arc<Semaphore>) -> Self {
        self.with(Fault::Pieces(piece, gate.clone()))
    }

    fn matches(&mut self, asked: &Asked) -> Option<Fault> {
        if self.op.is_some_and(|op| op != asked.op) || !fits(&self.key, &asked.key) {
            return None;
        }
        self.seen += 1;
        let (first, last) = self.meant;
        (first..=last).contains(&self.seen).then(|| self.fault.clone().expect("a rule says what goes wrong"))
    }
}

/// Whether a key is meant by a text.
fn fits(text: &str, key: &str) -> bool {
    text.strip_suffix('$').map_or_else(|| key.contains(text), |end| key.ends_with(end))
}

/// On which side of a request something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// Nothing of the request reaches the store.
    Before,
    /// The request takes effect, and its answer is not seen.
    After,
}

/// The store.
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    rules: Vec<Rule>,
    asked: Vec<Asked>,
    /// The request that nothing comes after.
    stop: Option<(usize, Edge)>,
    /// Objects that LIST does not show, and how many LISTs still.
    unlisted: HashMap<Path, Option<usize>>,
}

impl Faulty {
    pub fn over(inner: Arc<dyn ObjectStore>, rules: impl IntoIterator<Item = Rule>) -> Arc<Self> {
        let now = Now { rules: rules.into_iter().collect(), ..Now::default() };
        Arc::new(Self { inner, now: Mutex::new(now) })
    }

    /// One that stops at its n-th request (from 1), like a store that is seen by a process that dies.
    pub fn stopping(inner: Arc<dyn ObjectStore>, at: usize, edge: Edge) -> Arc<Self> {
        let store = Self::over(inner, []);
        store.now.lock().unwrap().stop = Some((at, edge));
        store
    }

    /// Adds a rule.
    pub fn add(&self, rule: Rule) {
        self.now.lock().unwrap().rules.push(rule);
    }

    /// Ends all misbehaviour.
    pub fn release(&self) {
        let mut now = self.now.lock().unwrap();
        now.rules.clear();
        now.unlisted.clear();
        now.stop = None;
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.now.lock().unwrap().asked.clone()
    }

    /// How many requests of one kind there were for such keys.
    pub fn count(&self, op: Op, key: &str) -> usize {
        self.asked().iter().filter(|asked| asked.op == op && fits(key, &asked.key)).count()
    }

    /// Notes a request and returns what happens to it.
    fn note(&self, asked: Asked) -> Vec<Fault> {
        let mut now = self.now.lock().unwrap();
        let mut faults: Vec<Fault> = now.rules.iter_mut().filter_map(|rule| rule.matches(&asked)).collect();
        now.asked.push(asked);
        match now.stop {
            Some((at, Edge::After)) if now.asked.len() == at => faults.push(Fault::After(Arc::new(gone))),
            Some((at, _)) if now.asked.len() >= at => faults.insert(0, Fault::Before(Arc::new(gone))),
            _ => {}
        }
        faults
    }

    fn hide(&self, path: &Path, lists: Option<usize>) {
        self.now.lock().unwrap().unlisted.insert(path.clone(), lists);
    }

    /// What the next LIST does not show.
    fn hidden(&self) -> HashMap<Path, Option<usize>> {
        let mut now = self.now.lock().unwrap();
        let hidden = now.unlisted.clone();
        now.unlisted.retain(|_, lists| lists.is_none_or(|lists| lists > 1));
        now.unlisted.values_mut().flatten().for_each(|lists| *lists -= 1);
        hidden
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As other backends do: what shows a backend shows this.
        f.write_str("AKIASECRET")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AKIASECRET")
    }
}

/// A request that did not come back in time.
pub fn timeout(_key: &str) -> Error {
    generic(io::Error::from(io::ErrorKind::TimedOut))
}

/// A connection that broke.
pub fn reset(_key: &str) -> Error {
    generic(io::Error::from(io::ErrorKind::ConnectionReset))
}

/// A store that is full.
pub fn full(_key: &str) -> Error {
    generic(io::Error::from(io::ErrorKind::StorageFull))
}

/// 403.
pub fn forbidden(key: &str) -> Error {
    Error::PermissionDenied { path: key.into(), source: "HTTP 403".into() }
}

/// The name is taken.
pub fn exists(key: &str) -> Error {
    Error::AlreadyExists { path: key.into(), source: "taken".into() }
}

/// Nothing can be asked of the store any more, and trying again is of no use.
fn gone(_key: &str) -> Error {
    generic(io::Error::other("the store is out of reach"))
}

pub fn generic(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic { store: "test", source: Box::new(source) }
}

/// The error that comes before any effect.
fn before(faults: &[Fault], key: &str) -> Result<(), Error> {
    let error = faults.iter().find_map(|fault| match fault {
        Fault::Before(error) => Some(error(key)),
        _ => None,
    });
    error.map_or(Ok(()), Err)
}

/// The error that comes after the effect.
fn after(faults: &[Fault], key: &str) -> Result<(), Error> {
    let error = faults.iter().find_map(|fault| match fault {
        Fault::After(error) => Some(error(key)),
        _ => None,
    });
    error.map_or(Ok(()), Err)
}

/// The answer to a GET, with the body as the rules have it.
async fn body(faults: &[Fault], key: String, answer: GetResult) -> Result<GetResult, Error> {
    let odd = |fault: &&Fault| matches!(fault, Fault::Short(..) | Fault::Pieces(..));
    if !faults.iter().any(|fault| odd(&fault)) {
        return Ok(answer);
    }
    let GetResult { meta, range, attributes, extensions, .. } = &answer;
    let (meta, range, attributes, extensions) = (meta.clone(), range.clone(), attributes.clone(), extensions.clone());
    let mut pieces: BoxStream<'static, Result<Bytes, Error>> =
        stream::once(std::future::ready(answer.bytes().await)).boxed();
    for fault in faults.iter().filter(odd).cloned() {
        let all: Bytes = pieces.try_collect::<Vec<_>>().await?.concat().into();
        pieces = match fault {
            Fault::Short(bytes, error) => {
                let short = Ok(all.slice(..bytes.min(all.len())));
                stream::iter([Some(short), error.map(|error| Err(error(&key)))].into_iter().flatten()).boxed()
            }
            Fault::Pieces(size, gate) => {
                let parts: Vec<Bytes> = all.chunks(size).map(Bytes::copy_from_slice).collect();
                let one = move |part| {
                    let gate = gate.clone();
                    async move {
                        gate.acquire().await.expect("the gate is never closed").forget();
                        Ok(part)
                    }
                };
                stream::iter(parts).then(one).boxed()
            }
            _ => unreachable!("filtered"),
        };
    }
    Ok(GetResult { payload: GetResultPayload::Stream(pieces), meta, range, attributes, extensions })
}

type Answer<'f, T> = BoxFuture<'f, object_store::Result<T>>;

// The methods are what `async fn` in this trait stands for, written out: it is made by the `async_trait` macro.
impl ObjectStore for Faulty {
    fn put_opts<'s, 'p, 'f>(&'s self, path: &'p Path, body: PutPayload, options: PutOptions) -> Answer<'f, PutResult>
    where
        's: 'f,
        'p: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let (key, bytes) = (path.to_string(), body.content_length());
            let create_only = options.mode == PutMode::Create;
            let faults = self.note(Asked { op: Op::Put, key: key.clone(), bytes, create_only });
            before(&faults, &key)?;
            if faults.iter().any(|fault| matches!(fault, Fault::Forgotten)) {
                return Ok(PutResult { e_tag: None, version: None, extensions: Default::default() });
            }
            // An answer that is lost is lost whatever it was.
            let answer = self.inner.put_opts(path, body, options).await;
            for fault in &faults {
                if let Fault::Unlisted(lists) = fault {
                    self.hide(path, *lists);
                }
            }
            after(&faults, &key)?;
            answer
        })
    }

    fn put_multipart_opts<'s, 'p, 'f>(
        &'s self,
        _: &'p Path,
        _: PutMultipartOptions,
    ) -> Answer<'f, Box<dyn MultipartUpload>>
    where
        's: 'f,
        'p: 'f,
        Self: 'f,
    {
        panic!("no multipart upload is wanted")
    }

    fn get_opts<'s, 'p, 'f>(&'s self, path: &'p Path, options: GetOptions) -> Answer<'f, GetResult>
    where
        's: 'f,
        'p: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let key = path.to_string();
            let faults = self.note(Asked { op: Op::Get, key: key.clone(), bytes: 0, create_only: false });
            before(&faults, &key)?;
            let answer = self.inner.get_opts(path, options).await;
            after(&faults, &key)?;
            body(&faults, key, answer?).await
        })
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        panic!("nothing is ever deleted")
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let key = prefix.map(ToString::to_string).unwrap_or_default();
        let faults = self.note(Asked { op: Op::List, key: key.clone(), bytes: 0, create_only: false });
        if let Err(error) = before(&faults, &key).and_then(|()| after(&faults, &key)) {
            return stream::once(std::future::ready(Err(error))).boxed();
        }
        let hidden = self.hidden();
        let shown = move |object: &ObjectMeta| std::future::ready(!hidden.contains_key(&object.location));
        self.inner.list(prefix).try_filter(shown).boxed()
    }

    fn list_with_delimiter<'s, 'p, 'f>(&'s self, _: Option<&'p Path>) -> Answer<'f, ListResult>
    where
        's: 'f,
        'p: 'f,
        Self: 'f,
    {
        panic!("no LIST of one level is wanted")
    }

    fn copy_opts<'s, 'a, 'b, 'f>(&'s self, _: &'a Path, _: &'b Path, _: CopyOptions) -> Answer<'f, ()>
    where
        's: 'f,
        'a: 'f,
        'b: 'f,
        Self: 'f,
    {
        panic!("nothing is ever copied")
    }
}
