"""A training program in steady state: compiled, past its warm-up, an epoch at a time."""

import dataclasses
import math
import re
import time
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from me_igm_jax import Config, make_env, make_program, override
from me_igm_jax.algos import make_algorithm
from me_igm_jax.config.schedule import schedule
from me_igm_jax.runner import devices
from me_igm_jax.runner.compiled import compile_program
from me_igm_jax.runner.members import make_members
from me_igm_jax.training.pieces import learning_data

MANY = 1000  # turns


@dataclasses.dataclass
class Trainer:
    """All seeds of `config` as the driver runs them; `turn()` trains one epoch and gives its seconds.

    An epoch is `iterations` collections with their updates; the program is compiled anew each time.
    """

    config: Config
    iterations: int

    def __post_init__(self):
        c = self.config
        jax.config.update("jax_enable_compilation_cache", False)
        devices.prepare(c, c.run.seeds)
        sizes = schedule(c, make_algorithm(c, make_env(c).spec).data)
        steps = self._length() * c.collect.envs * self.iterations
        self.steps_per_turn = steps * c.run.seeds
        self.updates_per_turn = self.iterations * sizes.updates * c.run.seeds
        # Every epoch is as long as a turn, and there are more of them than anybody takes turns.
        size = {"run.total_steps": MANY * steps, "run.evals": MANY, "run.eval_episodes": 1}
        c = override(c, size)
        self.members, mesh = make_members(c, {}), devices.member_mesh(c, c.run.seeds)
        self.program = make_program(c, members=c.run.seeds, share=devices.gradient_share(mesh))
        self.steps = compile_program(self.program, self.members, mesh, devices.seeds_at_a_time(c.run))
        self.state: Any = self.steps.init(self.members.keys, self.members.hypers)
        self.epochs = 0
        for _ in range(1 + -(-sizes.warmup // self.iterations)):
            self.turn()

    def _length(self) -> int:
        """Transitions of one collected sequence."""
        if self.config.collect.mode == "stream":
            return self.config.collect.length
        return make_env(self.config).spec.horizon

    def turn(self) -> float:
        index, begin = jnp.asarray(self.epochs, jnp.int32), time.perf_counter()
        self.state, _ = jax.block_until_ready(self.steps.epoch(self.state, index, self.members.hypers))
        self.epochs += 1
        return time.perf_counter() - begin


def matmul_flops_per_second() -> float:
    """What one large single-precision product reaches on this device, now."""
    product, x = jax.jit(lambda a: a @ a), jnp.ones((2048, 2048))
    product(x).block_until_ready()
    begin = time.perf_counter()
    for _ in range(5):
        product(x).block_until_ready()
    return 5 * 2 * 2048**3 / (time.perf_counter() - begin)


def product_flops(function, *args) -> float:
    """Floating-point operations of all matrix products that function(*args) traces to.

    Loops count as often as they run, which XLA's own cost analysis does not do.
    """
    return _products(jax.make_jaxpr(function)(*args).jaxpr)


def _products(jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            depth = [equation.invars[0].aval.shape[d] for d in contracted]
            total += 2.0 * equation.outvars[0].aval.size * float(jnp.prod(jnp.array(depth, float)))
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += times * sum(_products(inner) for inner in jaxprs_in_params(equation.params))
    return total


INSTRUCTION = re.compile(r"%(\S+) = \w+\[([\d,]*)\]\S* (dot)\(%(\S+?),|%(\S+) = \w+\[([\d,]*)\]")
CALL = re.compile(r"(?:calls|to_apply|body)=%([\w.-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")


def compiled_product_flops(text: str) -> float:
    """Floating-point operations of all matrix products in a compiled program, given as XLA prints it.

    Loops count as often as XLA knows that they run, and once where it does not.
    """
    own: dict[str, float] = {}
    calls: dict[str, list[tuple[int, str]]] = {}
    name, shapes, entry = "", {}, ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
            entry = name if line.startswith("ENTRY") else entry
            own[name], calls[name], shapes = 0.0, [], {}
        elif found := INSTRUCTION.search(line):
            dot, size = found[3], [int(n) for n in (found[2] or found[6] or "").split(",") if n]
            shapes[found[1] or found[5]] = size
            if dot:
                depth = [shapes[found[4]][int(d)] for d in CONTRACTED.findall(line)[0].split(",")]
                own[name] += 2.0 * math.prod(size) * math.prod(depth)
        if called := CALL.findall(line):
            trips = TRIPS.search(line)
            calls[name] += [(int(trips[1]) if trips else 1, other) for other in called]

    @cache
    def total(name: str) -> float:
        return own[name] + sum(times * total(other) for times, other in calls[name])

    return total(entry)


def one_update(config: Config) -> tuple:
    """A gradient step of one seed, drawing its batch too, and what to trace it with."""
    program = make_program(config)
    key = jax.random.key(0)

    def update(state, key):
        first = jnp.zeros((), int)
        batch = learning_data(
            program.algo.data, program.replay, state.ring, first, key, program.schedule.batch
        )
        return program.algo.update(state.learner, batch, key, jnp.zeros(()), config.hypers)

    return update, jax.eval_shape(program.init, key, config.hypers), key
