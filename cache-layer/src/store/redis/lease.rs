//! Leases: taken, kept alive, given back, and waited for.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use redis::{RedisResult, ScriptInvocation, aio::MultiplexedConnection};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use tracing::{Instrument as _, Span};

use super::{
    RedisStore,
    connection::{
        gathered_leases::{self, Attempt, LeaseAsk, Terms},
        gathering::answered,
        handle::{Connection, Limit},
        session::{MomentAsk, Session},
    },
    lookup::ReadTurn,
    tracking::{lease_tracker::PendingLease, waiters::pause_untracked},
    wire::{
        names::EVERYTHING,
        operation::Operation,
        replies::{self, AnyType, Bulk, Flag, Left, Moment, Taken, Time},
        scripts::{self, Batch},
    },
};
use crate::{
    clock::millis,
    key::Key,
    store::{Acquired, Failed, Failures, Lease, LeaseToken, Scope, Seen, StoreError},
    tag::{BansKnown, TagRecord},
};

/// A lease that is being asked for.
struct Wanted {
    /// The names of the entry and of the lease.
    entry: String,
    place: String,
    lease: Lease,
    /// In milliseconds.
    life: u64,
    seen: Seen,
    failures: Failures,
}

impl RedisStore {
    pub(super) async fn acquire_lease(
        &self,
        key: &Key,
        seen: Seen,
        ttl: Duration,
        failures: Failures,
    ) -> Result<Acquired, StoreError> {
        let life = millis(ttl).max(1);
        if self.0.context.lease_life.load(Ordering::Relaxed) != life {
            self.0.context.lease_life.store(life, Ordering::Relaxed);
        }
        if let Some(lease) = self.claimed(key, seen, life).await {
            return Ok(Acquired::Granted(lease));
        }
        let connection = self.connection(key);
        let session = connection.settled()?;
        if session.is_full() {
            return Err(StoreError::Full);
        }
        let (tags, tags_session) = self.connection_to_read_tags(&connection, &session)?;
        // Part of the lease's value.
        let bans = self.known_bans(&tags, &tags_session).await?;
        let names = &self.0.context.names;
        let lease = Lease::new(key, self.lease_token(), [0; 16]).knowing(bans);
        let wanted = Wanted { entry: names.entry(key), place: names.lease(key), lease, life, seen, failures };
        let over = [(&**connection, &session), (&*tags, &tags_session)];
        let request = self.begin_lease(key, wanted.lease.token, over)?;
        let set_back = self.0.context.clock.times_set_back();
        let mut sent = SentLease { store: self, lease: &wanted.lease, is_settled: false, unanswered: None };
        let (moment, answer, ()) = tokio::join!(
            self.moment(&tags, &tags_session),
            self.take_lease(&connection, &session, &wanted, &mut sent.unanswered),
            self.learn_life_of_everything(&tags, &tags_session)
        );
        let (failures, watched) = match answer? {
            Answer::Granted { failures, watched } => (failures, watched),
            Answer::Refused(refused) => {
                sent.is_settled = true;
                return Ok(refused);
            }
        };
        let started = moment?;
        if watched && session.tracking && tags_session.tracking && !request.granted() {
            self.watch_again(&connection, &session, &wanted.lease, Limit::Request).await;
        }
        sent.is_settled = true;
        drop(sent);
        Ok(Acquired::Granted(wanted.lease.started(started).under(tags.dataset_id(), set_back).after(failures)))
    }

    /// Announces that a lease is about to be asked for over these sessions. From now on, who gives one of them up revokes the lease;
    /// one that was given up before could end without anybody's hearing of it.
    pub(super) fn begin_lease(
        &self,
        key: &Key,
        token: LeaseToken,
        over: [(&Connection, &Arc<Session>); 2],
    ) -> Result<PendingLease<'_>, StoreError> {
        let pending = self.0.context.leases.begin(key, token);
        let lasts = over.iter().all(|(connection, session)| connection.has(session));
        if lasts { Ok(pending) } else { Err(StoreError::Unavailable) }
    }

    /// A token that no other lease has, and that tells people whose it is.
    pub(super) fn lease_token(&self) -> LeaseToken {
        self.0.context.lease_tokens.next(self.0.context.clock.now())
    }

    /// Takes the lease first, and then checks that the entry is still the one that was seen: under the lease, no other load
    /// changes it.
    async fn take_lease(
        &self,
        connection: &Connection,
        session: &Arc<Session>,
        wanted: &Wanted,
        unanswered: &mut Option<oneshot::Receiver<RedisResult<Attempt>>>,
    ) -> Result<Answer, StoreError> {
        let (names, key, value) = (&self.0.context.names, &wanted.lease.key, wanted.lease.value());
        let (reply, answer) = oneshot::channel();
        let ask = LeaseAsk {
            primary: key.id().is_variant().then(|| names.entry(&key.primary())),
            entry: wanted.entry.clone(),
            place: wanted.place.clone(),
            value: value.clone(),
            life: wanted.life,
            seen: wanted.seen,
            reply,
        };
        let (driver, terms) = (session.driver(), Terms { tracking: session.tracking, clustered: names.is_clustered() });
        session.leases.add(ask, move |asks| gathered_leases::take(driver, terms, asks));
        let answer = answered(unanswered.insert(answer));
        let attempt = connection.wait(Operation::Acquire, session, Limit::Request, answer).await?;
        *unanswered = None;
        let Attempt { taken, as_seen, held } = attempt;
        if !as_seen {
            if taken == Taken::Now {
                self.give_back(&wanted.lease).await;
            }
            return Ok(Answer::Refused(Acquired::Changed));
        }
        match taken {
            Taken::Now => Ok(Answer::Granted { failures: 0, watched: held.as_deref() == Some(&value[..]) }),
            Taken::Not(other) if is_token(&other) => Ok(Answer::Refused(Acquired::Held)),
            Taken::Not(other) if other == b"!u" && !wanted.failures.load_anew() => {
                Ok(Answer::Refused(Acquired::Uncacheable))
            }
            Taken::Not(_) | Taken::Foreign => self.take_after_all(connection, session, wanted).await,
        }
    }

    /// Takes the lease in place of a value that a failure left, if its pause is over, or that another program left.
    async fn take_after_all(
        &self,
        connection: &Connection,
        session: &Arc<Session>,
        Wanted { entry, place, lease, life, seen, failures }: &Wanted,
    ) -> Result<Answer, StoreError> {
        let value = lease.value();
        let seen: &[u8] = match seen {
            Seen::Nothing => b"",
            Seen::Entry(id) => &id.0,
            Seen::Unusable => b"*",
        };
        let insists: &[u8] = match failures {
            Failures::Heed => b"",
            Failures::Ignore => b"f",
            Failures::HeedAnew => b"u",
            Failures::IgnoreAnew => b"fu",
        };
        let mut acquire = Batch::default();
        acquire.call(&scripts::ACQUIRE, &[entry, place], &[&value, life.to_string().as_bytes(), seen, insists]);
        acquire.track(session.tracking);
        acquire.get_any(place);
        let answered: (Bulk, AnyType) = connection.run(Operation::Acquire, session, &acquire).await?;
        let (Bulk(answer), AnyType(held)) = answered;
        Answer::parse(&answer, held.as_deref() == Some(&value[..]))
    }

    /// The time by which invalidations of tags are dated, from before the load that is about to begin. It is the clock of the
    /// server that has the tags, even if another server has the entry. The last invalidation is tracked from then on.
    ///
    /// Loads that ask together share one reply: each asked before it was sent.
    async fn moment(&self, tags: &Arc<Connection>, session: &Arc<Session>) -> Result<[u8; 16], StoreError> {
        let (reply, answer) = oneshot::channel();
        let (store, tags, asked) = (self.clone(), tags.clone(), session.clone());
        let span = Span::current();
        session.moments.add(reply, move |asks: Vec<MomentAsk>| async move {
            let moment = store.read_moment(&tags, &asked).instrument(span).await;
            asks.into_iter().for_each(|ask| drop(ask.send(moment.clone())));
        });
        answer.await.unwrap_or(Err(StoreError::Unavailable))
    }

    async fn read_moment(&self, tags: &Connection, session: &Arc<Session>) -> Result<[u8; 16], StoreError> {
        let note = self.0.context.names.last_invalidation();
        let mut batch = Batch::default();
        batch.track(session.tracking);
        batch.get_any(&note);
        batch.time();
        let (AnyType(last), Time(now)): (AnyType, Time) =
            tags.run(Operation::LastInvalidation, session, &batch).await?;
        if last.is_some_and(|last| replies::moment(&last).is_some()) {
            return Ok(now);
        }
        // The note was lost. Written now, it doesn't void what is loaded from now on.
        let mut batch = Batch::default();
        batch.track(session.tracking);
        batch.call(&scripts::LAST_INVALIDATION, &[&note], &[]);
        let ((_, Moment(now)),): ((Moment, Moment),) = tags.run(Operation::LastInvalidation, session, &batch).await?;
        Ok(now)
    }

    /// The bans that a load knows of that is about to begin: as this process knows them or, after a change, as it reads them. An
    /// entry that records no ban is covered by all.
    pub(super) async fn known_bans(
        &self,
        tags: &Connection,
        session: &Arc<Session>,
    ) -> Result<Option<BansKnown>, StoreError> {
        if let Some(known) = session.tokens.get(EVERYTHING) {
            return Ok(Some(known.record().bans_known()));
        }
        // Without tracking, it would be read for each load.
        if !session.tracking && !self.0.context.has_bans.load(Ordering::Relaxed) {
            return Ok(None);
        }
        self.know_everything(tags, session).await
    }

    /// Makes sure that it is known for how long the token lives that every entry carries, so that a commit need not ask for it. If
    /// this fails, the commit asks if it has to.
    pub(super) async fn learn_life_of_everything(&self, tags: &Connection, session: &Arc<Session>) {
        let Some(known) = session.tokens.get(EVERYTHING).filter(|known| !known.lives_for(Duration::ZERO)) else {
            return;
        };
        let (mut batch, then) = (Batch::default(), Instant::now());
        batch.left(&self.0.context.names.tag(EVERYTHING));
        let answer: Result<(Left,), StoreError> = tags.run(Operation::Mget, session, &batch).await;
        if let Some(life) = answer.ok().and_then(|(left,)| left.life()) {
            session.tokens.note_life(EVERYTHING, known.token(), then, life);
        }
    }

    /// Reads the token that every entry carries, with its bans, and for how long it lives; returns the bans.
    pub(super) async fn know_everything(
        &self,
        tags: &Connection,
        session: &Arc<Session>,
    ) -> Result<Option<BansKnown>, StoreError> {
        let turn = self.turn_to_read(session).await?;
        if matches!(turn, ReadTurn::Known) {
            return Ok(session.tokens.get(EVERYTHING).map(|known| known.record().bans_known()));
        }
        let name = self.0.context.names.tag(EVERYTHING);
        let (mut batch, then) = (Batch::default(), Instant::now());
        batch.track(session.tracking);
        batch.get_any(&name);
        batch.left(&name);
        let read = session.tokens.begin_read(&[EVERYTHING.into()]);
        let answer: Result<(AnyType, Left), StoreError> = tags.run(Operation::Mget, session, &batch).await;
        let Ok((AnyType(found), left)) = answer else {
            turn.end(&answer);
            return answer.map(|_| None);
        };
        let Some(record) = found.and_then(|found| TagRecord::parse(&found)) else { return Ok(None) };
        if let Some(life) = left.life().filter(|_| session.tracking) {
            read.complete_living(&record, then, life);
        }
        let bans = record.bans_known();
        self.note_bans(&[Some(record)]);
        Ok(Some(bans))
    }

    pub(super) async fn is_lease_held_by(&self, key: &Key, token: LeaseToken) -> Result<bool, StoreError> {
        let connection = self.connection(key);
        let session = connection.session()?;
        let mut question = Batch::default();
        question.get_any(&self.0.context.names.lease(key));
        let (AnyType(held),): (AnyType,) = connection.run(Operation::Watch, &session, &question).await?;
        Ok(held.is_some_and(|held| held.starts_with(&token)))
    }

    pub(super) async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<bool, StoreError> {
        let connection = self.connection(&lease.key);
        let session = connection.session()?;
        let mut call = scripts::RENEW.key(self.0.context.names.lease(&lease.key));
        call.arg(lease.value()).arg(millis(ttl).max(1));
        let Flag(renewed) = connection
            .run_with(Operation::Renew, &session, Limit::Background, async |mut driver: MultiplexedConnection| {
                call.invoke_async(&mut driver).await
            })
            .await?;
        if renewed {
            self.watch_again(&connection, &session, lease, Limit::Background).await;
        } else {
            self.0.context.leases.end(lease);
        }
        Ok(renewed)
    }

    /// Finds out whether a lease that may have changed is still held, and continues to watch it: a push for its name may have
    /// been for this process's own renewal, or for the end of the lease before this one.
    pub(super) async fn watch_again(
        &self,
        connection: &Connection,
        session: &Arc<Session>,
        lease: &Lease,
        limit: Limit,
    ) {
        let mut batch = Batch::default();
        batch.track(session.tracking);
        batch.get_any(&self.0.context.names.lease(&lease.key));
        // The push of this process's own renewal may still be on its way, and void the first of these reads. It arrives before
        // the reply to it.
        for _ in 0..2 {
            let Some(question) = self.0.context.leases.begin_again(lease) else { return };
            let watched: Result<(AnyType,), StoreError> = connection
                .run_with(Operation::Watch, session, limit, async |mut driver: MultiplexedConnection| {
                    batch.run(&mut driver).await
                })
                .await;
            let Ok((AnyType(Some(held)),)) = watched else { return };
            if held != lease.value() || question.granted() {
                return;
            }
        }
    }

    /// Gives a lease back without waiting. A lease that can't be given back expires by itself.
    pub(super) fn release_lease(&self, lease: &Lease, uncacheable: Option<Duration>) {
        if let Some(release) = self.release(lease, uncacheable) {
            self.0.runtime.spawn(release.in_current_span());
        }
    }

    /// As [`release_lease`](Self::release_lease), and waits until that is done: the next read of this process finds no lease. It is
    /// given back even if the caller is dropped before that.
    pub(super) async fn give_back(&self, lease: &Lease) {
        if let Some(release) = self.release(lease, None) {
            // It fails only if the runtime is shutting down.
            let _ = self.0.runtime.spawn(release.in_current_span()).await;
        }
    }

    fn release(
        &self,
        lease: &Lease,
        uncacheable: Option<Duration>,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        let connection = self.connection(&lease.key);
        let session = connection.session().ok()?;
        self.0.context.leases.end(lease);
        let mut call = scripts::RELEASE.key(self.0.context.names.lease(&lease.key));
        call.arg(lease.value()).arg(uncacheable.map_or(0, millis));
        let end = end(Operation::Release, connection.into_owned(), session, call);
        Some(async move { drop(end.await) })
    }

    /// As [`give_back`](Self::give_back), with the entry of the lease's key.
    pub(super) async fn supersede_entry(&self, lease: &Lease) -> Result<(), StoreError> {
        // A server may fail over before its reply is here, or soon after.
        let remember = || self.0.context.guard.remember(Scope::Key(&lease.key));
        remember();
        let connection = self.connection(&lease.key);
        let session = connection.session()?;
        self.0.context.leases.end(lease);
        let names = &self.0.context.names;
        let mut call = scripts::RELEASE.key(names.lease(&lease.key));
        call.key(names.entry(&lease.key)).arg(lease.value()).arg(0);
        let ended = end(Operation::Release, connection.into_owned(), session, call).await;
        // The server's push comes only after its reply.
        self.0.context.local_tier.get().into_iter().for_each(|tier| tier.void(lease.key.id()));
        remember();
        ended
    }

    pub(super) async fn end_lease_of(&self, key: &Key) -> Result<(), StoreError> {
        let connection = self.connection(key);
        let session = connection.session()?;
        let call = scripts::END_LEASE.key(self.0.context.names.lease(key));
        let ended: Result<Flag, StoreError> = connection
            .run_with(Operation::Release, &session, Limit::Request, async |mut driver: MultiplexedConnection| {
                call.invoke_async(&mut driver).await
            })
            .await;
        // The server's push comes only after its reply.
        self.0.context.leases.mark_unknown(key.id());
        ended.map(drop)
    }

    /// As [`release_lease`](Self::release_lease), when the load failed.
    pub(super) fn fail_lease(&self, lease: &Lease, Failed { status, pause, remembered }: Failed) {
        let connection = self.connection(&lease.key);
        let Ok(session) = connection.session() else { return };
        self.0.context.leases.end(lease);
        let mut call = scripts::FAIL.key(self.0.context.names.lease(&lease.key));
        call.arg(lease.value()).arg(millis(pause)).arg(lease.failures.saturating_add(1));
        call.arg(status.unwrap_or(0)).arg(millis(pause.saturating_add(remembered)).max(1));
        self.0.runtime.spawn(end(Operation::Fail, connection.into_owned(), session, call).in_current_span());
    }

    /// Returns when the caller should look again.
    pub(super) async fn lease_may_have_ended(&self, key: &Key) {
        let connection = self.connection(key);
        let Ok(session) = connection.session() else { return sleep(pause_untracked()).await };
        if !session.tracking {
            return sleep(pause_untracked()).await;
        }
        let waiter = session.waiters.join(key.id());
        let name = self.0.context.names.lease(key);
        let mut batch = Batch::default();
        batch.track(session.tracking);
        batch.get_any(&name);
        batch.left(&name);
        let watched: Result<(AnyType, Left), StoreError> = connection.run(Operation::Watch, &session, &batch).await;
        match watched {
            Ok((AnyType(Some(held)), Left(left))) if is_token(&held) => {
                // The server may be late to expire a lease, and to push that.
                let left = u64::try_from(left).map_or(Duration::MAX, |left| Duration::from_millis(left + 1));
                tokio::select! {
                    () = waiter.woken() => {}
                    () = sleep(session.waiters.pause().min(left)) => {}
                }
            }
            Ok(_) => {}
            Err(_) => sleep(pause_untracked()).await,
        }
    }
}

/// A lease that was asked for. It is given back, if it is not settled when this is dropped: after an error, or if its load was
/// dropped before the reply came, the server may grant it, without a holder.
struct SentLease<'a> {
    store: &'a RedisStore,
    lease: &'a Lease,
    /// Whether it has a holder, or was not granted.
    is_settled: bool,
    /// The answer, until it has been taken.
    unanswered: Option<oneshot::Receiver<RedisResult<Attempt>>>,
}

impl Drop for SentLease<'_> {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        let Some(answer) = self.unanswered.take() else { return self.store.release_lease(self.lease, None) };
        let (store, lease) = (self.store.clone(), self.lease.clone());
        let give_back = async move {
            // It may not have been sent yet, and the command that gives it back must not overtake it.
            if !answer.is_terminated() {
                let _ = timeout(2 * store.0.context.timeouts.operation, answer).await;
            }
            store.give_back(&lease).await;
        };
        self.store.0.runtime.spawn(give_back.in_current_span());
    }
}

/// Makes the call that ends a lease.
async fn end(
    what: Operation,
    connection: Arc<Connection>,
    session: Arc<Session>,
    call: ScriptInvocation<'static>,
) -> Result<(), StoreError> {
    let end = async |mut driver: MultiplexedConnection| call.invoke_async(&mut driver).await;
    let ended: Result<Flag, StoreError> = connection.run_with(what, &session, Limit::Background, end).await;
    ended.map(drop)
}

/// How an attempt to take a lease ended.
enum Answer {
    /// After this many failed loads. `watched`: the server will push any change.
    Granted {
        failures: u32,
        watched: bool,
    },
    Refused(Acquired),
}

impl Answer {
    /// Parses the reply of [`ACQUIRE`](scripts::ACQUIRE).
    fn parse(reply: &[u8], watched: bool) -> Result<Self, StoreError> {
        let refused = match reply {
            b"held" => Acquired::Held,
            b"changed" => Acquired::Changed,
            b"uncacheable" => Acquired::Uncacheable,
            other => match (parse_back_off(other), parse_grant(other)) {
                (Some(back_off), _) => back_off,
                (None, Some(failures)) => return Ok(Self::Granted { failures, watched }),
                (None, None) => {
                    return Err(StoreError::Failed("a reply that is not part of the protocol".to_owned()));
                }
            },
        };
        Ok(Self::Refused(refused))
    }
}

/// `backoff:<milliseconds>:<status or 0>`
fn parse_back_off(reply: &[u8]) -> Option<Acquired> {
    let (remaining, status) = str::from_utf8(reply).ok()?.strip_prefix("backoff:")?.split_once(':')?;
    let status = status.parse().ok().filter(|status| *status != 0);
    Some(Acquired::BackOff { remaining: Duration::from_millis(remaining.parse().ok()?), status })
}

/// The number of failed loads before this grant; it follows the time, of 16 digits.
fn parse_grant(reply: &[u8]) -> Option<u32> {
    let (time, failures) = reply.split_first_chunk::<16>()?;
    replies::moment(time)?;
    str::from_utf8(failures).ok()?.parse().ok()
}

/// Whether this value is a lease that is held, and not the result of an ended one.
fn is_token(held: &[u8]) -> bool {
    held.first().is_some_and(|first| *first != b'!')
}
