"""PanoLLaVA, a composite model of transformers 5.16 to 5.23.

An image encoder sees the views of a panorama, a resampler turns them into tokens that know their direction, and a
language model reads them in place of one placeholder per panorama.
"""

from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from transformers import AutoModel, Cache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, ModelOutput
from transformers.utils import torch_compilable_check
from transformers.utils.generic import can_return_tuple

from .c_abstractor import DepthwiseConv, LastNorm
from .configuration_panollava import PanoLlavaConfig
from .labels import needed_positions, next_labels
from .logits import new_head, scaled_logits
from .mask_head import MaskHead
from .perceiver import PerceiverBlock, PerceiverTrunk
from .resampler import Resampler
from .trunks import ScaledLinear, Whitening
from .views import view_poses
from .vision import build_tower, encode_views, is_frozen, keep_statistics

# Of how many tokens the embeddings are looked at, to see whether they are their weights.
SAMPLED = 256


class AttentionPlan(Protocol):
    """How the tokens of one pass attend, for a language model whose attention implementation takes a plan.

    needed: the positions `[K]` among the `B S` tokens whose last hidden states are needed; None for all.
    mask: a 4-D attention mask, which transformers hands to the attention as it is.
    """

    @property
    def needed(self) -> Tensor | None: ...
    @property
    def mask(self) -> Tensor: ...
    def needing_all(self) -> Self: ...


@dataclass
class PanoLlavaModelOutputWithPast(BaseModelOutputWithPast):
    """Hidden states of the language model, and the visual tokens `[P N, D]` that went into it."""

    image_hidden_states: Tensor | None = None


@dataclass
class PanoLlavaCausalLMOutputWithPast(ModelOutput):
    """Loss and logits; with labels, the logits are `[K, vocabulary]`, one row for each needed position.

    `mask_logits` `[Q, V, h, w]` scores each patch for each of Q mask queries.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_hidden_states: Tensor | None = None
    mask_logits: Tensor | None = None


class PanoLlavaPreTrainedModel(PreTrainedModel):
    """What the two model classes share: abilities, and the initialisation of the resampler."""

    config: PanoLlavaConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")  # type: ignore[assignment] # the library itself sets tuples
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ScaledLinear | PerceiverTrunk | Whitening | DepthwiseConv | LastNorm):
            module.reset_parameters()
        elif isinstance(module, PerceiverBlock):
            init.ones_(module.locality)
        else:
            super()._init_weights(module)

    def enable_input_require_grads(self) -> None:
        """Let the embeddings of texts require gradients, as activation checkpointing wants; some encoders' cannot."""
        self.get_decoder().enable_input_require_grads()

    def disable_input_require_grads(self) -> None:
        """Undo `enable_input_require_grads`."""
        self.get_decoder().disable_input_require_grads()


class PanoLlavaModel(PanoLlavaPreTrainedModel):
    """Encoder, resampler and language model without its head.

    `vision_tower` and `language_model` are built from the configuration unless loaded ones are given.
    """

    def __init__(
        self,
        config: PanoLlavaConfig,
        vision_tower: PreTrainedModel | None = None,
        language_model: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        self.vision_tower = build_tower(config.vision_config) if vision_tower is None else vision_tower
        self.resampler = Resampler(config)
        self.language_model = AutoModel.from_config(config.text_config) if language_model is None else language_model
        self.post_init()

    def vision_is_frozen(self) -> bool:
        """Return whether no parameter of the encoder requires a gradient."""
        return is_frozen(self.vision_tower)

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode; a frozen encoder stays in evaluation mode, and batch norms of any do."""
        super().train(mode)
        if self.vision_is_frozen():
            self.vision_tower.eval()
        keep_statistics(self.vision_tower)
        return self

    def encode_views(self, pixel_values: Tensor) -> Tensor:
        """Return the patch grids `[P, V, h, w, C]` of views `[P, V, 3, S, S]`; a frozen encoder keeps no graph."""
        return encode_views(self.vision_tower, pixel_values, self.config.vision_feature_layer)

    def default_poses(self, grids: Tensor) -> Tensor:
        """Return the poses `[P, V, 6]` of the configured views for patch grids `[P, V, h, w, C]`."""
        size, side = self.config.view_pixels, self.config.tokens_per_side
        poses = view_poses(self.config.view_settings, view_size=size, tokens_per_side=side)
        return poses.to(grids.device).expand(len(grids), -1, -1)

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        view_poses: Tensor | None = None,
        patch_grids: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Return the language tokens of panoramas, one `[N, D]` tensor each, as `pooler_output`.

        `pixel_values` is `[P, V, 3, S, S]`; `view_poses` `[P, V, 6]` comes with it from the image processor and
        defaults to the configured views. `patch_grids` `[P, V, h, w, C]`, the encoder's features computed before, can
        take the place of the pixel values. `last_hidden_state` holds the trunk features `[P, V, t, t, C']`.

        Raises:
            ValueError: both or neither of pixel values and patch grids, or poses of another number of panoramas or
                views than these.
        """
        if pixel_values is not None and patch_grids is None:
            grids = self.encode_views(pixel_values)
        elif patch_grids is not None and pixel_values is None:
            grids = patch_grids
        else:
            raise ValueError("give exactly one of pixel_values and patch_grids")
        features = self.resampler.trunk(grids)
        if view_poses is None:
            view_poses = self.default_poses(grids)
        if view_poses.shape[:2] != grids.shape[:2]:
            raise ValueError(
                f"there are {list(grids.shape[:2])} panoramas and views, view_poses describe "
                f"{list(view_poses.shape[:2])}"
            )
        tokens = self.resampler.project(features, view_poses)
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=list(tokens))  # type: ignore[arg-type]

    def get_placeholder_mask(
        self, input_ids: Tensor, image_features: Tensor, placeholders: Tensor | None = None
    ) -> Tensor:
        """Return which positions `[B, S, 1]` take a visual token.

        Raises:
            ValueError: the number of placeholders differs from the number of visual tokens `[P N, D]`.
        """
        mask = input_ids == self.config.image_token_id
        count = mask.sum() if placeholders is None else len(placeholders)
        torch_compilable_check(
            count == len(image_features),
            lambda: f"the prompts hold {int(count)} placeholders for {len(image_features)} visual tokens",
        )
        return mask[..., None]

    def embed_inputs(
        self, input_ids: Tensor, image_features: Tensor | None, placeholders: Tensor | None = None
    ) -> Tensor:
        """Return input embeddings `[B, S, D]` with visual tokens `[P N, D]` in place of the placeholders.

        The placeholder may lie beyond the vocabulary: it is looked up as token 0 and overwritten.
        """
        if image_features is None:
            if input_ids.shape[1] > 1:  # a single token is a decoding step; checking it would stall the device
                torch_compilable_check(
                    (input_ids != self.config.image_token_id).all() if placeholders is None else not len(placeholders),
                    lambda: "the prompt holds placeholder tokens, but neither pixel_values nor mm_encoder_outputs came",
                )
            return self.get_input_embeddings()(input_ids)
        mask = self.get_placeholder_mask(input_ids, image_features, placeholders)
        embeddings = self.get_input_embeddings()(input_ids.masked_fill(mask[..., 0], 0))
        features = image_features.to(embeddings.device, embeddings.dtype)
        if placeholders is None:
            return embeddings.masked_scatter(mask, features)
        # The gradient of a scatter under a mask would wait for the GPU.
        return embeddings.flatten(0, 1).index_copy(0, placeholders, features).view_as(embeddings)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        view_poses: Tensor | None = None,
        patch_grids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        placeholders: Tensor | None = None,
        plan: AttentionPlan | None = None,
        **kwargs: Any,
    ) -> PanoLlavaModelOutputWithPast:
        """Run the language model over prompts `[B, S]` whose placeholders are filled with visual tokens.

        A 4-D boolean `attention_mask` `[B, 1, S, S]` and `position_ids` reach the language model as they are. For
        `patch_grids` see `get_image_features`. `placeholders` `[P N]` are the positions of all placeholders among the
        `B S` tokens of `input_ids`, in order; without them they are searched, which makes a GPU wait. A `plan`
        decides how tokens attend.

        Raises:
            ValueError: both or neither of `input_ids` and `inputs_embeds`; pixel values twice, or with embeddings; a
                wrong number of placeholders.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        images = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None or patch_grids is not None:
            if images is not None:
                raise ValueError("give pixel_values or mm_encoder_outputs, not both")
            images = self.get_image_features(pixel_values, view_poses, patch_grids, return_dict=True)
        features = None
        if images is not None:
            features = torch.cat(images.pooler_output)  # type: ignore[arg-type] # a list, as generation wants it
        if input_ids is not None:
            inputs_embeds = self.embed_inputs(input_ids, features, placeholders)
        elif features is not None:
            raise ValueError("panoramas need input_ids: inputs_embeds do not show where the placeholders are")
        assert inputs_embeds is not None
        if plan is not None:
            attention_mask, kwargs = plan.mask, kwargs | {"plan": plan}
        state = {"attention_mask": attention_mask, "position_ids": position_ids, "past_key_values": past_key_values}
        outputs = self.language_model(inputs_embeds=inputs_embeds, **state, **kwargs)
        return PanoLlavaModelOutputWithPast(**outputs, image_hidden_states=features)


def embedding_size(embeddings: nn.Module) -> Tensor:
    """Return the root mean square of token embeddings, which some families scale beyond their weights."""
    weight = embeddings.get_parameter("weight")
    size = weight.float().square().mean().sqrt()
    some = torch.arange(0, len(weight), -(-len(weight) // SAMPLED), device=weight.device)
    return size * (embeddings(some).float().square().mean() / weight[some].float().square().mean()).sqrt()


class PanoLlavaForConditionalGeneration(PanoLlavaPreTrainedModel, GenerationMixin):
    """PanoLLaVA with its language-model head: what one trains, saves and generates with."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(
        self,
        config: PanoLlavaConfig,
        vision_model: PreTrainedModel | None = None,
        language_model: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        decoder = None if language_model is None else language_model.get_decoder()
        self.model = PanoLlavaModel(config, vision_model, decoder)
        head = new_head(config.text_config) if language_model is None else language_model.get_output_embeddings()
        self.lm_head = head
        self.mask_head = MaskHead(config)
        self.post_init()

    @classmethod
    def from_parts(
        cls, vision_model: PreTrainedModel, language_model: PreTrainedModel, config: PanoLlavaConfig
    ) -> Self:
        """Return a model of two loaded checkpoints and a new resampler; the parts are taken over, not copied.

        `config.vision_config` and `config.text_config` must be the parts' own `config` objects. The resampler takes the
        language model's dtype, and its tokens start at the size of that model's embeddings.

        Raises:
            ValueError: a part that does not belong to the configuration, or two dtypes.
        """
        if config.vision_config is not vision_model.config or config.text_config is not language_model.config:
            raise ValueError(
                "config.vision_config and config.text_config must be the config objects of the two models; got "
                f"{config.vision_config.model_type} and {config.text_config.model_type} beside models of "
                f"{vision_model.config.model_type} and {language_model.config.model_type}"
            )
        if vision_model.dtype != language_model.dtype:
            raise ValueError(
                f"the image encoder is {vision_model.dtype}, the language model {language_model.dtype}; load both alike"
            )
        model = cls(config, vision_model, language_model)
        # Building `config` has cleared how the parts compute: attention without a name would have no causal mask, and
        # experts without one cannot be compiled.
        tower, decoder = model.model.vision_tower, model.model.language_model
        attention = {"vision_config": tower, "text_config": decoder}
        chosen = {name: part.get_correct_attn_implementation(None) for name, part in attention.items()}
        model.set_attn_implementation({"": config._attn_implementation, **chosen})
        decoder.set_experts_implementation(decoder.get_correct_experts_implementation(None))
        for part in (model.model.resampler, model.mask_head):
            part.to(language_model.device, language_model.dtype)
        with torch.no_grad():
            size = embedding_size(model.get_input_embeddings())
            model.model.resampler.projection.contract.weight *= size / config.text_config.initializer_range
        model.generation_config = language_model.generation_config
        config.dtype = language_model.dtype
        return model

    def get_output_embeddings(self) -> nn.Module:
        """Return the language-model head."""
        return self.lm_head

    def logits_of(self, hidden: Tensor) -> Tensor:
        """Return the logits `[..., vocabulary]` of last hidden states `[..., D]`, as the language model's own are."""
        return scaled_logits(self.config.text_config, self.lm_head(hidden))

    def score_patches(
        self, queries: Tensor, patch_grids: Tensor | None, view_poses: Tensor | None, panoramas: Tensor
    ) -> Tensor:
        """Return the mask head's scores `[Q, V, h, w]` for hidden states `queries` `[Q, D]`.

        Query q is about panorama `panoramas[q]` of patch grids `[P, V, h, w, C]` at poses `[P, V, 6]`, by default those
        of the configured view strategy.

        Raises:
            ValueError: no patch grids.
        """
        if patch_grids is None:
            raise ValueError("masks need the panorama: give pixel_values or patch_grids")
        poses = self.model.default_poses(patch_grids) if view_poses is None else view_poses
        patches = self.model.resampler.trunk.whiten(patch_grids)
        return self.mask_head(queries, patches[panoramas], poses[panoramas])

    def get_image_features(
        self, pixel_values: Tensor, view_poses: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Return the language tokens of panoramas, see `PanoLlavaModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, view_poses, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        view_poses: Tensor | None = None,
        patch_grids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        mask_queries: Tensor | None = None,
        plan: AttentionPlan | None = None,
        **kwargs: Any,
    ) -> PanoLlavaCausalLMOutputWithPast:
        """Return logits `[B, S, vocabulary]`, or the loss and the logits of the needed positions.

        `labels` `[B, S]` are shifted here, `shift_labels` `[B, S]` are already; -100 is ignored. With either, the head
        runs on the K needed positions alone and `logits` is `[K, vocabulary]` in their order: the loss is that of the
        plain model, at a fraction of the memory. `num_items_in_batch` (by keyword) replaces the mean.

        `mask_queries` `[Q, 3]` are (row, position, panorama): tokens whose objects the mask head looks for, and where.

        The needed positions are those that labels and mask queries need. A `plan` brings them; without one they are
        searched, which makes a GPU wait.

        Raises:
            ValueError: labels together with `logits_to_keep`, and what `PanoLlavaModel.forward` raises.
        """
        if labels is not None and shift_labels is None:
            shift_labels = next_labels(labels)
        if shift_labels is not None and not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            raise ValueError("logits_to_keep cannot go with labels: these choose the positions themselves")
        if mask_queries is not None and pixel_values is not None:
            patch_grids, pixel_values = self.model.encode_views(pixel_values), None
        needed = plan.needed if plan is not None else None
        if shift_labels is not None and needed is None:
            needed = needed_positions(shift_labels, mask_queries)
        text_config = self.config.text_config
        all_wanted = shift_labels is None or kwargs.get("output_hidden_states", text_config.output_hidden_states)
        if plan is not None and all_wanted:
            plan = plan.needing_all()
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            view_poses=view_poses,
            patch_grids=patch_grids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            mm_encoder_outputs=mm_encoder_outputs,
            plan=plan,
            **kwargs,
        )
        hidden, loss, mask_logits = outputs.last_hidden_state, None, None
        if mask_queries is not None:
            rows, positions, panoramas = mask_queries.unbind(-1)
            mask_logits = self.score_patches(hidden[rows, positions], patch_grids, view_poses, panoramas)
        if shift_labels is None:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.logits_of(hidden[:, kept])
        else:
            logits, targets = self.logits_of(hidden.flatten(0, 1)[needed]), shift_labels.flatten()[needed]
            vocabulary = text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=None, shift_labels=targets, vocab_size=vocabulary, **kwargs)
        return PanoLlavaCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
            mask_logits=mask_logits,
        )
