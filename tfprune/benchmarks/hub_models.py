"""Image backbones of keras-hub, of every family that can be built without a download, made small.

All have their own constructors' arguments: few blocks, few channels, small images, and of every
kind of block at least one. Behind each stands a classifier, `head`.
"""
import importlib.util
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import keras
from keras import layers

NEEDS = "needs keras-hub: pip install -e '.[test-hub]'"
_IMAGE = (32, 32, 3)


def hub() -> ModuleType:
    """keras_hub; ValueError names the extra that brings it."""
    if importlib.util.find_spec('keras_hub') is None:
        raise ValueError(f'suite backbones {NEEDS}')
    import keras_hub
    return keras_hub


def build(name: str) -> keras.Model:
    """A model of MODELS, weights not trained."""
    keras_hub = hub()
    return MODELS[name](keras_hub.models)


def head(backbone: keras.Model, outputs: Any = None) -> keras.Model:
    """A classifier on the mean over positions of each of the outputs of a backbone."""
    means = []
    for x in keras.tree.flatten(backbone.outputs if outputs is None else outputs):
        means.append(layers.GlobalAveragePooling2D()(x) if len(x.shape) == 4 else
                     layers.GlobalAveragePooling1D()(x) if len(x.shape) == 3 else x)
    x = layers.Concatenate(name='means')(means) if len(means) > 1 else means[0]
    inputs = backbone.inputs[0] if len(backbone.inputs) == 1 else backbone.inputs
    return keras.Model(inputs, layers.Dense(10, name='logits')(x), name=backbone.name)


def _csp(block: str, stage: str, **options: Any) -> Callable[[Any], keras.Model]:
    def make(models: Any) -> keras.Model:
        return head(models.CSPNetBackbone(
            stem_filters=16, stem_kernel_size=3, stem_strides=1, stackwise_depth=[1, 2, 2],
            stackwise_strides=[1, 2, 2], stackwise_num_filters=[16, 32, 48], bottle_ratio=[.5],
            block_type=f'{block}_block', stage_type=stage, image_shape=_IMAGE,
            **{'block_ratio': [.5], **options}))
    return make


def _resnet(models: Any, block: str = 'basic_block', image: Sequence[Any] = _IMAGE, *,
            deep: bool = False, before: bool = False) -> keras.Model:
    """A ResNet's backbone; `deep`: of three convolutions before, as ResNet-VD; `before`: V2."""
    return models.ResNetBackbone(
        input_conv_filters=[8, 8, 64] if deep else [64],
        input_conv_kernel_sizes=[3, 3, 3] if deep else [7],
        stackwise_num_filters=[64, 24, 32, 40], stackwise_num_blocks=[2, 2, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2], block_type=block, use_pre_activation=before,
        image_shape=image)


def _deeplab(models: Any, *, plus: bool) -> keras.Model:
    return head(models.DeepLabV3Backbone(
        image_encoder=_resnet(models, image=(64, 64, 3)), spatial_pyramid_pooling_key='P5',
        upsampling_size=8, dilation_rates=[6, 12, 18], projection_filters=12,
        low_level_feature_key='P2' if plus else None, image_shape=(64, 64, 3)))


def _efficientnet(models: Any, kind: str) -> keras.Model:
    """Kinds: those of V1 and of the lite ones, with squeezing and without; of V2."""
    blocks = {'v1': ['v1'] * 3, 'lite': ['v1'] * 3, 'v2': ['fused', 'fused', 'unfused'],
              'el': ['cba', 'fused', 'unfused']}[kind]
    squeeze = {'v1': [.25] * 3, 'lite': [0] * 3, 'v2': [0, 0, .25], 'el': [0, 0, .25]}[kind]
    return head(models.EfficientNetBackbone(
        width_coefficient=1.0, depth_coefficient=1.0, stackwise_kernel_sizes=[3, 5, 3],
        stackwise_num_repeats=[1, 2, 2], stackwise_input_filters=[16, 16, 24],
        stackwise_output_filters=[16, 24, 40], stackwise_expansion_ratios=[1, 4, 6],
        stackwise_squeeze_and_excite_ratios=squeeze, stackwise_strides=[1, 2, 2],
        stackwise_block_types=blocks, stackwise_force_input_filters=[0] * 3,
        stackwise_nores_option=[False] * 3, activation='relu6' if kind == 'lite' else 'swish',
        num_features=64, input_shape=_IMAGE))


def _hgnet(models: Any, image: Sequence[Any] = (64, 64, 3), **options: Any) -> keras.Model:
    return models.HGNetV2Backbone(
        depths=[1, 1, 2, 1], embedding_size=16, hidden_sizes=[32, 48, 64, 80],
        stem_channels=[3, 16, 16], hidden_act='relu', use_learnable_affine_block=True,
        stackwise_stage_filters=[(16, 8, 32, 1, 2, 3), (32, 12, 48, 1, 2, 3),
                                 (48, 16, 64, 2, 2, 5), (64, 20, 80, 1, 2, 5)],
        apply_downsample=[False, True, True, True],
        use_lightweight_conv_block=[False, False, True, True], image_shape=image, **options)


def _mit(models: Any) -> keras.Model:
    return models.MiTBackbone(
        layerwise_depths=[1, 2], num_layers=2, hidden_dims=[16, 32], layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1], max_drop_path_rate=.1, layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2], image_shape=_IMAGE)


def _mobilenet(models: Any) -> keras.Model:
    """V3: blocks with squeezing and without, both activations."""
    return head(models.MobileNetBackbone(
        stackwise_expansion=[[40, 56], [64, 72]], stackwise_num_blocks=[2, 2],
        stackwise_num_filters=[[16, 16], [24, 24]], stackwise_kernel_size=[[3, 3], [5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1]], stackwise_se_ratio=[[None, None], [.25, .25]],
        stackwise_activation=[['relu', 'relu'], ['hard_swish', 'hard_swish']],
        stackwise_padding=[[1, 1], [2, 2]], output_num_filters=64, depthwise_filters=16,
        depthwise_stride=1, depthwise_residual=True, last_layer_filter=72,
        squeeze_and_excite=.5, image_shape=_IMAGE))


def _mobilenet_v5(models: Any) -> keras.Model:
    """An edge residual, universal inverted bottlenecks, attention of many queries to one key.

    Not its attention of several keys: that asks for the batch's size in a symbolic call and cannot
    be built; nor squeezing, whose layer is called by a name that it does not know (0.32.0).
    """
    def by_stage(*values: Any) -> list[list[Any]]:
        return [[values[0]], list(values[1:3]), list(values[3:])]

    return head(models.MobileNetV5Backbone(
        stackwise_block_types=by_stage('er', 'uir', 'uir', 'mqa', 'mqa'),
        stackwise_num_blocks=[1, 2, 2], stackwise_num_filters=by_stage(24, 32, 32, 32, 32),
        stackwise_strides=by_stage(2, 2, 1, 1, 1),
        stackwise_act_layers=by_stage(*['gelu'] * 5),
        stackwise_exp_ratios=by_stage(4., 4., 4., 0., 0.),
        stackwise_se_ratios=by_stage(*[0.] * 5),
        stackwise_dw_kernel_sizes=by_stage(0, 5, 0, 0, 0),
        stackwise_dw_start_kernel_sizes=by_stage(0, 3, 5, 0, 0),
        stackwise_dw_end_kernel_sizes=by_stage(*[0] * 5),
        stackwise_exp_kernel_sizes=by_stage(3, 0, 0, 0, 0),
        stackwise_pw_kernel_sizes=by_stage(1, 0, 0, 0, 0),
        stackwise_num_heads=by_stage(0, 0, 0, 4, 2), stackwise_key_dims=by_stage(0, 0, 0, 8, 8),
        stackwise_value_dims=by_stage(0, 0, 0, 8, 8), stackwise_kv_strides=by_stage(0, 0, 0, 2, 1),
        stackwise_use_cpe=by_stage(False, False, False, False, True), num_features=64,
        msfa_output_resolution=4, layer_scale_init_value=.1, image_shape=_IMAGE))


def _transformer(**options: Any) -> dict[str, Any]:
    return {'patch_size': 8, 'num_layers': 2, 'num_heads': 2, 'hidden_dim': 32,
            'image_shape': _IMAGE, **options}


def _dfine(models: Any) -> keras.Model:
    """Detector of the DETR kind: hybrid encoder, decoder with deformable attention."""
    encoder = _hgnet(models, (None, None, 3), out_features=['stage3', 'stage4'])
    backbone = models.DFineBackbone(
        backbone=encoder, decoder_in_channels=[32, 32], encoder_hidden_dim=32, num_denoising=0,
        num_labels=5, hidden_dim=32, learn_initial_query=False, num_queries=10,
        anchor_image_size=(64, 64), feat_strides=[16, 32], num_feature_levels=2,
        encoder_in_channels=[64, 80], encode_proj_layers=[1], num_attention_heads=2,
        encoder_ffn_dim=48, num_encoder_layers=1, hidden_expansion=.5, depth_multiplier=.5,
        eval_idx=-1, num_decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=48,
        decoder_n_points=[2, 2], lqe_hidden_dim=16, num_lqe_layers=2,
        out_features=['stage3', 'stage4'], image_shape=(64, 64, 3), seed=0)
    return head(backbone, [backbone.output['intermediate_logits'],
                           backbone.output['intermediate_reference_points']])


def _depth_anything(models: Any) -> keras.Model:
    encoder = models.DINOV2Backbone(**_transformer(
        num_layers=4, intermediate_dim=48, use_mask_token=False, image_shape=(64, 64, 3),
        position_embedding_shape=(64, 64, 3)))
    return head(models.DepthAnythingBackbone(
        image_encoder=encoder, reassemble_factors=[4, 2, 1, .5], neck_hidden_dims=[8, 12, 16, 20],
        fusion_hidden_dim=16, head_hidden_dim=8, head_in_index=-1,
        feature_keys=['stage1', 'stage2', 'stage3', 'stage4']))


def _retinanet(models: Any) -> keras.Model:
    backbone = models.RetinaNetBackbone(
        image_encoder=_resnet(models, image=(64, 64, 3)), min_level=3, max_level=6, use_p5=False,
        image_shape=(64, 64, 3))
    return head(backbone)


# Name -> (keras_hub.models) -> the model.
MODELS: dict[str, Callable[[Any], keras.Model]] = {
    'CSPNet': _csp('bottleneck', 'csp', groups=2),
    'CSPDarkNet': _csp('dark', 'cs3'),
    'DarkNet': _csp('dark', 'dark', block_ratio=[1.]),
    'CSPEdge': _csp('edge', 'csp', avg_down=True, cross_linear=True),
    'DenseNet': lambda models: head(models.DenseNetBackbone(
        stackwise_num_repeats=[2, 3, 2], growth_rate=8, image_shape=_IMAGE)),
    'EfficientNetV1': lambda models: _efficientnet(models, 'v1'),
    'EfficientNetLite': lambda models: _efficientnet(models, 'lite'),
    'EfficientNetV2': lambda models: _efficientnet(models, 'v2'),
    'EfficientNetEL': lambda models: _efficientnet(models, 'el'),
    'HGNetV2': lambda models: head(_hgnet(models)),
    'MobileNetV3': _mobilenet,
    'MobileNetV5': _mobilenet_v5,
    'ResNet': lambda models: head(_resnet(models)),
    'ResNetBottleneck': lambda models: head(_resnet(models, 'bottleneck_block')),
    'ResNetV2': lambda models: head(_resnet(models, before=True)),
    'ResNetVD': lambda models: head(_resnet(models, 'bottleneck_block_vd', deep=True)),
    'ResNetClassifier': lambda models: models.ImageClassifier(
        _resnet(models), num_classes=10, activation=None),
    'VGG': lambda models: head(models.VGGBackbone(
        stackwise_num_repeats=[1, 2, 2], stackwise_num_filters=[16, 24, 32], image_shape=_IMAGE)),
    'Xception': lambda models: head(models.XceptionBackbone(
        stackwise_conv_filters=[[16, 24], [32, 32], [48, 48]],
        stackwise_pooling=[False, True, False], image_shape=_IMAGE)),
    'DeepLabV3': lambda models: _deeplab(models, plus=False),
    'DeepLabV3Plus': lambda models: _deeplab(models, plus=True),
    'RetinaNet': _retinanet,
    'BASNet': lambda models: head(models.BASNetBackbone(
        image_encoder=_resnet(models, image=(None, None, 3)), num_classes=1, projection_filters=64,
        image_shape=_IMAGE)),
    'DFine': _dfine,
    'ViT': lambda models: head(models.ViTBackbone(**_transformer(mlp_dim=48))),
    'DeiT': lambda models: head(models.DeiTBackbone(**_transformer(intermediate_dim=48))),
    'DINOv2': lambda models: head(models.DINOV2Backbone(**_transformer(
        intermediate_dim=48, num_register_tokens=2, use_mask_token=False,
        position_embedding_shape=(64, 64, 3)))),
    'DINOv2SwiGLU': lambda models: head(models.DINOV2Backbone(**_transformer(
        intermediate_dim=48, use_mask_token=False, use_swiglu_ffn=True,
        position_embedding_shape=_IMAGE))),
    'DINOv3': lambda models: head(models.DINOV3Backbone(**_transformer(
        intermediate_dim=48, use_mask_token=False))),
    'DINOv3Gated': lambda models: head(models.DINOV3Backbone(**_transformer(
        intermediate_dim=48, use_mask_token=False, use_gated_mlp=True))),
    'DepthAnything': _depth_anything,
    'MiT': lambda models: head(_mit(models)),
    'SegFormer': lambda models: head(models.SegFormerBackbone(
        image_encoder=_mit(models), projection_filters=24)),
    'Swin': lambda models: head(models.SwinTransformerBackbone(
        image_shape=_IMAGE, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4,
        patch_size=2)),
    'ViTDet': lambda models: head(models.ViTDetBackbone(
        image_shape=_IMAGE, patch_size=4, hidden_size=32, num_layers=2,
        global_attention_layer_indices=[1], intermediate_dim=48, num_heads=2,
        num_output_channels=16, window_size=3)),
    'CLIPVision': lambda models: head(_vision(models, 'clip', 'CLIPVisionEncoder')),
    'SigLIPVision': lambda models: head(_vision(models, 'siglip', 'SigLIPVisionEncoder')),
}


def _vision(models: Any, family: str, name: str) -> keras.Model:
    """The image side of a model of images and text, which keras_hub does not export."""
    del models
    module = importlib.import_module(f'keras_hub.src.models.{family}.{family}_vision_encoder')
    return getattr(module, name)(**_transformer(intermediate_dim=48))
