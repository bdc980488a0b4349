//! Simulates clients, a gateway and an upstream on a faulty network with a virtual clock. A seed determines the whole run.

pub mod client;
pub mod gateway;
pub mod net;
pub mod plan;
pub mod reading;
pub mod upstream;
pub mod world;

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, task::yield_now, time::sleep};

use client::{Client, Progress};
use net::Address;
use plan::{A_DAY, Plan};
use world::{Counts, World};

/// Text in denied events, which no client may ever see.
pub const SECRET: &str = "hunter2";

/// The result of a run.
pub struct Outcome {
    /// Violated expectations.
    pub faults: Vec<String>,
    pub counts: Counts,
    /// Duration of the run on the virtual clock.
    pub lasted: Duration,
}

/// Runs one seed. With `tracing`, prints what happens.
pub fn run(seed: u64, tracing: bool) -> Outcome {
    // The random numbers of the layer itself.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(simulate(seed, tracing))
}

async fn simulate(seed: u64, tracing: bool) -> Outcome {
    let mut rng = fastrand::Rng::with_seed(seed);
    let plan = Arc::new(Plan::new(&mut rng));
    let world = World::new(plan.chaos, tracing);
    world.note(|| format!("{plan:#?}"));

    let (upstream, accepted) = Address::new();
    let up = upstream::run(Arc::clone(&world), Arc::clone(&plan), accepted, rng.fork());
    world.spawn("the upstream", up);
    let (gateway, accepted) = Address::new();
    let front = |accepted, rng| {
        let (world, plan) = (Arc::clone(&world), Arc::clone(&plan));
        gateway::run(world, plan, accepted, upstream.clone(), rng)
    };
    world.spawn_in_gateway("the gateway", front(accepted, rng.fork()));

    let mut clients = Vec::new();
    let client = |family: usize, rng| Client {
        world: Arc::clone(&world),
        plan: Arc::clone(&plan),
        me: plan.clients[family].clone(),
        family,
        gateway: gateway.clone(),
        rng,
        progress: Progress::default(),
    };
    for family in 0..plan.clients.len() {
        let client = client(family, rng.fork());
        let (done, result) = tokio::sync::oneshot::channel();
        world.spawn("a client", async move {
            let _ = done.send(client.run().await);
        });
        clients.push(result);
    }

    if plan.thieves {
        world.spawn("a thief", client(0, rng.fork()).steal());
    }

    // Hosts stop and restart.
    let mut events: Vec<_> = plan
        .upstream_restarts
        .iter()
        .map(|down| (true, down))
        .collect();
    events.extend(plan.gateway_crashes.iter().map(|down| (false, down)));
    events.sort_by_key(|(_, down)| down.at);
    for (is_upstream, down) in events {
        sleep(down.at.saturating_sub(world.begun.elapsed())).await;
        let host = if is_upstream { &upstream } else { &gateway };
        host.stop();
        if is_upstream {
            world.note(|| {
                format!(
                    "the upstream stops; it forgets its streams: {}",
                    down.forgets
                )
            });
            world.count(|counts| counts.restarts += 1);
            if down.forgets {
                world
                    .state()
                    .runs
                    .iter_mut()
                    .for_each(|run| run.forgotten = true);
            }
        } else {
            world.note(|| "the gateway crashes".into());
            world.count(|counts| counts.crashes += 1);
            let tasks = std::mem::take(&mut world.state().gateway);
            tasks.iter().for_each(|task| task.abort());
        }
        sleep(down.down_for).await;
        let accepted = host.restart();
        if is_upstream {
            let up = upstream::run(Arc::clone(&world), Arc::clone(&plan), accepted, rng.fork());
            world.spawn("the upstream", up);
        } else {
            world.spawn_in_gateway("the gateway", front(accepted, rng.fork()));
        }
    }

    let mut clients_progress = Vec::new();
    for client in clients {
        clients_progress.push(client.await.unwrap_or_default());
    }

    while world.state().counts.second_readers > 0 {
        sleep(Duration::from_secs(10)).await;
    }

    // All logs expire in time. Afterwards their ids are unknown.
    let retention = if plan.is_roomy {
        A_DAY
    } else {
        Duration::from_secs(600)
    };
    sleep(retention + plan.grace_period + Duration::from_secs(2000)).await;
    let running = world.state().counts.layer_tasks;
    if running > 0 {
        world.fault(format!("{running} tasks of the layer still run"));
    }
    for (family, progress) in clients_progress.iter().enumerate() {
        if let Some(id) = &progress.last_id {
            let mut late = client(family, rng.fork());
            late.expect_unknown(id.clone()).await;
        }
    }
    upstream.stop();
    gateway.stop();
    sleep(Duration::from_secs(600)).await;
    for _ in 0..10 {
        yield_now().await;
    }
    let counts = world.state().counts;
    let alive = Handle::current().metrics().num_alive_tasks();
    if alive > 0 {
        world.fault(format!("{alive} tasks still run"));
    }
    if counts.open_sockets != 0 {
        world.fault(format!("{} sockets are still open", counts.open_sockets));
    }
    if counts.opened != counts.ended || counts.opened != counts.dropped {
        world.fault(format!(
            "not every interceptor was ended and dropped: {counts:?}"
        ));
    }
    let mut state = world.state();
    Outcome {
        faults: std::mem::take(&mut state.faults),
        counts,
        lasted: world.begun.elapsed(),
    }
}
