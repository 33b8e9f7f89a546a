"""Tests that columns of many trainers are recognized by their names."""

import pytest

from bigscale.monitor.columns import kind_of

DIALECTS = {
  "bigscale": {
    "d/loss": ("game", 0),
    "g/grad_norm": ("game", 1),
    "d/r1": ("game", 1),
    "d/logit_gap": ("game", 0),
    "d/sigma2/stage4_block0.expand": ("d_weights", 1),
    "g/sigma0/linear": ("g_weights", 1),
    "g/sigma1/linear": ("g_tail", 1),
    "g/weight_norm": ("g_weights", 1),
    "d/weight_norm": ("d_weights", 1),
    "g/update_norm": ("heldout", 1),
    "d/heldout_gap": ("heldout", 1),
    "g/pixel_distance": ("samples", 1),
    "g/diversity": ("samples", -1),
    "g/effective_rank": ("samples", -1),
    "ema/distance": ("average", 1),
    "eval/fd_classifier": ("scores", 1),
    "eval/fid_inception": ("scores", 1),
    "eval/is_inception": ("scores", -1),
    "eval/precision_inception": ("scores", -1),
    "d/logit_real": None,
    "d/sign_real": None,
    "g/nonfinite": None,
    "perf/mfu": None,
    "monitor/game": None,
    "aug/p": None,
    "ema/decay": None,
    "eval/classes_present": None,
    "eval/kid_standard_error_classifier": None,
  },
  "BigGAN-PyTorch": {
    "G_loss": ("game", 0),
    "D_loss_real": ("game", 0),
    "D_loss_fake": ("game", 0),
    "D_blocks_4_0_conv2_sv0": ("d_weights", 1),
    "D_embed_sv0": ("d_weights", 1),
    "G_blocks_0_0_conv1_sv0": ("g_weights", 1),
    "G_linear_sv0": ("g_weights", 1),
    "G_linear_sv1": ("g_tail", 1),
    "IS_mean": ("scores", -1),
    "IS_std": None,
    "FID": ("scores", 1),
    "itr": None,
  },
  "StyleGAN": {
    "Loss/G/loss": ("game", 0),
    "Loss/D/loss": ("game", 0),
    "Loss/r1_penalty": ("game", 1),
    "Loss/scores/fake": None,
    "Loss/signs/real": None,
    "metric/fid50k_full": ("scores", 1),
    "metric/is50k_mean": ("scores", -1),
    "metric/ppl2_wend": ("scores", 1),
    "metric/pr50k3_full_recall": ("scores", -1),
    "Progress/augment": None,
    "Timing/sec_per_tick": None,
    "Resources/peak_gpu_mem_gb": None,
  },
  "StudioGAN": {
    "gen_loss": ("game", 0),
    "dis_adv_loss": ("game", 0),
    "Gen_blocks.0.0.conv2d1.weight_orig": ("g_weights", 1),
    "Dis_blocks.1.0.conv2d2.weight_orig": ("d_weights", 1),
    "FID score": ("scores", 1),
    "IS score": ("scores", -1),
  },
  "plain": {
    "G": ("game", 0),
    "discriminator_loss": ("game", 0),
    "critic/grad_norm": ("game", 1),
    "val/lpips": ("samples", -1),
    "temperature": ("other", 0),
    "lr": None,
    "G_lr": None,
    "step_time": None,
    "examples_per_sec": None,
    "epoch": None,
    "loss__MIN": None,
  },
}


@pytest.mark.parametrize(
  ("dialect", "name"), [(d, n) for d in DIALECTS for n in DIALECTS[d]]
)
def test_the_name_decides_the_group_and_the_bad_direction(dialect, name):
  kind, wanted = kind_of(name), DIALECTS[dialect][name]
  assert (kind and (kind.group, kind.direction)) == wanted


@pytest.mark.parametrize(
  ("name", "vital"),
  [
    ("d/loss", True),
    ("g/grad_norm", True),
    ("g/weight_norm", True),
    ("g/update_norm", True),
    ("g/sigma0/fc", False),
    ("g/diversity", False),
    ("temperature", False),
  ],
)
def test_losses_and_norms_of_a_whole_player_are_vital(name, vital):
  assert kind_of(name).vital is vital
