//! Leases: taken, kept alive, given back, and waited for.

use std::{sync::Arc, time::Duration};

use redis::{ScriptInvocation, aio::MultiplexedConnection};
use tokio::time::sleep;
use tracing::Instrument as _;

use super::{
    RedisStore,
    connection::{
        handle::{Connection, Limit},
        session::Session,
    },
    tracking::waiters::pause_untracked,
    wire::{
        operation::Operation,
        replies::{self, Bulk, Flag, Left, Moment},
        scripts::{self, Batch},
    },
};
use crate::{
    clock::millis,
    key::Key,
    store::{Acquired, Failed, Failures, Lease, LeaseToken, Seen, StoreError},
};

/// What a lease's key holds, and for how many milliseconds more.
type Watched = (Bulk, Left);

impl RedisStore {
    pub(super) async fn acquire_lease(
        &self,
        key: &Key,
        seen: Seen,
        ttl: Duration,
        failures: Failures,
    ) -> Result<Acquired, StoreError> {
        let connection = self.connection(key);
        let session = connection.settled()?;
        let names = &self.0.context.names;
        let token = Lease::random_token();
        let life = millis(ttl).max(1).to_string();
        let seen: &[u8] = match &seen {
            Seen::Nothing => b"",
            Seen::Entry(id) => &id.0,
            Seen::Unusable => b"*",
        };
        if session.is_full() {
            return Err(StoreError::Full);
        }
        let (tags, tags_session) = self.connection_to_read_tags(&connection, &session)?;
        let request = self.0.context.leases.begin(key, token);
        let (entry, place) = (names.entry(key), names.lease(key));
        let mut acquire = Batch::default();
        if key.id().is_variant() {
            acquire.watch(session.tracking, &names.entry(&key.primary()));
        }
        acquire.call(
            &scripts::ACQUIRE,
            &[&entry, &place],
            &[&token, life.as_bytes(), seen, if failures == Failures::Ignore { b"1" } else { b"0" }],
        );
        acquire.track(session.tracking);
        acquire.call(&scripts::WATCH, &[&place], &[]);
        let (moment, reply) =
            tokio::join!(self.moment(&tags, &tags_session), connection.run(Operation::Acquire, &session, &acquire));
        let (Bulk(reply), (Bulk(held), _)): (Bulk, Watched) = reply.inspect_err(|error| {
            // It may still be granted, to nobody: what comes after it takes it back.
            if *error == StoreError::TimedOut {
                self.release_lease(&Lease::new(key, token, [0; 16]), None);
            }
        })?;
        let failures = match Answer::parse(&reply)? {
            Answer::Granted { failures } => failures,
            Answer::Refused(refused) => return Ok(refused),
        };
        let started = moment.inspect_err(|_| self.release_lease(&Lease::new(key, token, [0; 16]), None))?;
        if session.tracking && tags_session.tracking && held == token {
            request.granted();
        }
        let lease = Lease::new(key, token, started).under(tags.mark());
        Ok(Acquired::Granted(lease.after(failures)))
    }

    /// The time by which invalidations of tags are dated, from before the load that is about to begin. It is the clock
    /// of the server that has the tags, whoever has the entry.
    async fn moment(&self, tags: &Connection, session: &Arc<Session>) -> Result<[u8; 16], StoreError> {
        let mut batch = Batch::default();
        batch.track(session.tracking);
        batch.call(&scripts::LAST_INVALIDATION, &[&self.0.context.names.last_invalidation()], &[]);
        let ((_, Moment(now)),): ((Moment, Moment),) = tags.run(Operation::LastInvalidation, session, &batch).await?;
        Ok(now)
    }

    pub(super) async fn is_lease_held_by(&self, key: &Key, token: LeaseToken) -> Result<bool, StoreError> {
        let connection = self.connection(key);
        let session = connection.session()?;
        let name = self.0.context.names.lease(key);
        let mut question = Batch::default();
        question.call(&scripts::WATCH, &[&name], &[]);
        let ((Bulk(held), _),): (Watched,) = connection.run(Operation::Watch, &session, &question).await?;
        Ok(held == token)
    }

    pub(super) async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<bool, StoreError> {
        let connection = self.connection(&lease.key);
        let session = connection.session()?;
        let mut call = scripts::RENEW.key(self.0.context.names.lease(&lease.key));
        call.arg(&lease.token[..]).arg(millis(ttl).max(1));
        let Flag(renewed) = connection
            .run_with(Operation::Renew, &session, Limit::Background, async |mut driver: MultiplexedConnection| {
                call.invoke_async(&mut driver).await
            })
            .await?;
        if renewed {
            self.watch_again(&connection, &session, lease).await;
        } else {
            self.0.context.leases.end(lease);
        }
        Ok(renewed)
    }

    /// Finds out whether a lease that something happened to is still held, and goes on watching it.
    async fn watch_again(&self, connection: &Connection, session: &Arc<Session>, lease: &Lease) {
        let mut batch = Batch::default();
        batch.track(session.tracking);
        batch.call(&scripts::WATCH, &[&self.0.context.names.lease(&lease.key)], &[]);
        // The push of our own renewal may still be on its way to us, and void the first of these questions. It comes before
        // the reply to it.
        for _ in 0..2 {
            let Some(question) = self.0.context.leases.begin_again(lease) else { return };
            let watched: Result<(Watched,), StoreError> = connection
                .run_with(Operation::Watch, session, Limit::Background, async |mut driver: MultiplexedConnection| {
                    batch.run(&mut driver).await
                })
                .await;
            match watched {
                Ok(((Bulk(held), _),)) if held == lease.token => question.granted(),
                _ => return,
            }
            if self.0.context.leases.stands(lease) {
                return;
            }
        }
    }

    /// Gives a lease back without waiting. One that can't be given back runs out by itself.
    pub(super) fn release_lease(&self, lease: &Lease, uncacheable: Option<Duration>) {
        let connection = self.connection(&lease.key);
        let Ok(session) = connection.session() else { return };
        self.0.context.leases.end(lease);
        let mut call = scripts::RELEASE.key(self.0.context.names.lease(&lease.key));
        call.arg(&lease.token[..]).arg(uncacheable.map_or(0, millis));
        self.end(Operation::Release, connection.into_owned(), session, call);
    }

    /// As [`release_lease`](Self::release_lease), when the load failed.
    pub(super) fn fail_lease(&self, lease: &Lease, Failed { status, pause, remembered }: Failed) {
        let connection = self.connection(&lease.key);
        let Ok(session) = connection.session() else { return };
        self.0.context.leases.end(lease);
        let mut call = scripts::FAIL.key(self.0.context.names.lease(&lease.key));
        call.arg(&lease.token[..]).arg(millis(pause).max(1)).arg(lease.failures.saturating_add(1));
        call.arg(status.unwrap_or(0)).arg(millis(pause.saturating_add(remembered)).max(1));
        self.end(Operation::Fail, connection.into_owned(), session, call);
    }

    fn end(
        &self,
        what: Operation,
        connection: Arc<Connection>,
        session: Arc<Session>,
        call: ScriptInvocation<'static>,
    ) {
        let end = async move {
            let end = async |mut driver: MultiplexedConnection| call.invoke_async(&mut driver).await;
            let _: Result<Flag, StoreError> = connection.run_with(what, &session, Limit::Background, end).await;
        };
        self.0.runtime.spawn(end.in_current_span());
    }

    /// Returns when it is time to look again.
    pub(super) async fn lease_may_have_ended(&self, key: &Key) {
        let connection = self.connection(key);
        let Ok(session) = connection.session() else { return sleep(pause_untracked()).await };
        if !session.tracking {
            return sleep(pause_untracked()).await;
        }
        let waiter = session.waiters.join(key.id());
        let mut batch = Batch::default();
        batch.track(session.tracking);
        batch.call(&scripts::WATCH, &[&self.0.context.names.lease(key)], &[]);
        let watched: Result<(Watched,), StoreError> = connection.run(Operation::Watch, &session, &batch).await;
        match watched {
            Ok(((Bulk(held), Left(left)),)) if is_token(&held) => {
                // The server may be late to expire a lease, and to say so.
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

/// What [`ACQUIRE`](scripts::ACQUIRE) answers.
enum Answer {
    /// After so many loads that failed.
    Granted {
        failures: u32,
    },
    Refused(Acquired),
}

impl Answer {
    fn parse(reply: &[u8]) -> Result<Self, StoreError> {
        let refused = match reply {
            b"held" => Acquired::Held,
            b"changed" => Acquired::Changed,
            b"uncacheable" => Acquired::Uncacheable,
            other => match (parse_back_off(other), parse_grant(other)) {
                (Some(back_off), _) => back_off,
                (None, Some(failures)) => return Ok(Self::Granted { failures }),
                (None, None) => {
                    return Err(StoreError::Failed("an answer that is none of the protocol's".to_owned()));
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

/// How many loads failed before this grant; it comes after the time, of 16 digits.
fn parse_grant(reply: &[u8]) -> Option<u32> {
    let (time, failures) = reply.split_first_chunk::<16>()?;
    replies::moment(time)?;
    str::from_utf8(failures).ok()?.parse().ok()
}

/// Whether this is somebody's lease, and not what became of one.
fn is_token(held: &[u8]) -> bool {
    held.first().is_some_and(|first| *first != b'!')
}
