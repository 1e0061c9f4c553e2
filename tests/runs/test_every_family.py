"""A small model of each file of timm comes back from disk as it was, whatever its tensors share."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from vitrellis.models import create_model
from vitrellis.runs.exported import Preprocessing, load_exported, save_model

SMALLEST = """
cait_xxs24_224 cifar_resnet8 coat_tiny convit_tiny convmixer_768_32 cpubone_nano
crossvit_tiny_240 cs3darknet_focus_s csatv2 cspnext_tiny cvt_13 davit_tiny deit_tiny_patch16_224
densenet121 dhvt_micro_patch4 dla46x_c dpn48b edgenext_xx_small efficientformer_l1
efficientformerv2_s0 efficientvim_m1 efficientvit_b0 efficientvit_m0 ese_vovnet19b_slim_dw
evit_deit_tiny_patch16_224 fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny ghostnet_050
gmlp_ti16_224 halonet_h1 hardcorenas_b hgnetv2_b0 hiera_tiny_224 hrnet_w18_small iformer_t
inception_next_atto inception_v3 lcnet_035 lcnetv2_small legacy_seresnet18 legacy_xception
levit_128s lowformer_b0 mobilevit_xxs mvitv2_tiny nest_tiny nextvit_small pit_ti_224
poolformerv2_s12 pvt_tiny pvt_v2_b0 rdnet_tiny regnetx_002 repghostnet_050 repvit_m1 res2next50
resnest14d resnetv2_18 rexnet_100 sam2_hiera_tiny selecsls42 sequencer2d_s shvit_s1 skresnet18
starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224 swinv2_cr_tiny_224
swinv2_tiny_window8_256 t2t_vit_7 test_byobnet test_coatnet test_convnext test_efficientnet
test_mambaout test_nfnet test_resnet test_vit test_vit_relpos tiny_vit_5m_224
tnt_s_legacy_patch16_224 tresnet_m twins_svt_small visformer_tiny vit_micro_patch4_28
vit_tiny_patch16_dinov3_qkvb vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224 xception41p
xcit_nano_12_p8_224
"""
"""The model of each file of timm 1.0 that has the fewest parameters, unless it has 40 million."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST.split())
def test_it_comes_back(name: str, tmp_path: Path) -> None:
    cfg = timm.get_pretrained_cfg(name)
    assert cfg is not None
    torch.manual_seed(0)
    model = create_model(name, num_classes=3).eval()
    size = cfg.input_size[1], cfg.input_size[2]
    save_model(
        model,
        tmp_path,
        architecture=name,
        num_classes=3,
        model_args={},
        class_names=list("abc"),
        preprocessing=Preprocessing(size, 3, (0.5,) * 3, (0.2,) * 3, "bicubic"),
    )
    again = load_exported(tmp_path).model.eval()
    state, same = model.state_dict(), again.state_dict()
    assert state.keys() == same.keys()
    assert [key for key in state if not torch.equal(state[key], same[key])] == []
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        assert torch.equal(model(images), again(images))
