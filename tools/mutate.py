"""Break the package in one place at a time, in a copy of the tree, and report which tests notice.

    python tools/mutate.py [--list] [--only NAME ...] [--all] [--again] [--timeout SECONDS] [--results FILE]

Each fault of `FAULTS` replaces a text that stands exactly once in a module, and in the page it is exported from. The tests named beside it
run first without any fault, where they must pass, and then with it; `--all` runs the whole quick set instead. Results are kept, and used
again while neither the package nor the tests change. The table goes to standard output as Markdown; the exit status is 1 if a fault survives.
"""
import argparse, hashlib, json, os, re, shutil, signal, subprocess, sys, tempfile, time, traceback
from dataclasses import astuple, dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SKIPPED = '.git .venv .cache .pytest_cache __pycache__ _docs _proc runs build dist records'.split()
SLOW = 'browser site ddp background resume monitor package house fences store joint mutate'.split()    # Words in the names of test files that the quick set leaves out


class ToolError(Exception): "What this tool cannot do, in a sentence"


@dataclass(frozen=True)
class Fault:
    "One deliberate fault, and the tests that should notice"
    name:str    # What is wrong, in a few words
    module:str  # e.g. 'losses/terms'
    old:str     # Stands once in the module
    new:str
    tests:str   # e.g. 'faults::test_training test_x', 'page:init/00_depth'


LOOP = 'faults::test_training_agrees_with_a_plain_loop[token-on]'
FORMULA = 'feature_losses::test_each_term_is_its_formula_text_by_text'
PADDED = 'faults::test_training_agrees_with_a_plain_loop[sequence-off]'

FAULTS = [Fault(*row) for row in (
    # ---- losses, masks, temperature, what is divided by what ----
    ('embedding term divided by labels instead of tokens', 'losses/terms', "t.hidden[0], total=b.totals['tokens'])",
     "t.hidden[0], total=b.totals['labels'])", LOOP),
    ('texts without a label do not count for the teacher', 'losses/terms', 'batch.seen_by(t))', 'replace(batch, compared=None))', 'page:losses/08_terms'),
    ('hidden terms averaged over layers', 'losses/terms', "F.hidden_mse(b.project(s.hidden[i]), t.hidden[j], total=b.totals['tokens'])",
     "F.hidden_mse(b.project(s.hidden[i]), t.hidden[j], total=b.totals['tokens'])/len(b.layers)", LOOP),
    ("hidden states compared with the teacher's layer below", 'losses/terms', '[(i+1, l+1) for i,l', '[(i+1, l) for i,l', LOOP),
    ('weights of loss terms ignored', 'train/trainer', 'sum(weights[k]*terms[k] for', 'sum(terms[k] for', LOOP),
    ('the counts of the first micro-batch only', 'train/trainer', 'batch_totals(samples)', 'batch_totals(samples[:1])', LOOP),
    ('each micro-batch divided by its own counts', 'losses/logits', 'if total is None: total =', 'total =', LOOP),
    ('masked positions counted', 'losses/logits', 'if mask is not None: x = torch.where', 'if False: x = torch.where', LOOP),
    ('attention of padding counted', 'losses/features', 'mask[:,:,None]*mask[:,None,:]', 'torch.ones_like(mask)[:,:,None]*mask[:,None,:]',
     PADDED),
    ('attention summed over heads', 'losses/features', 'diff.pow(2).mean(1)', 'diff.pow(2).sum(1)', LOOP),
    ('PKD with the last layer', 'losses/terms', 'b.hidden_pairs[:-1])', 'b.hidden_pairs)', FORMULA),
    ("PKD with the second text's first token for the first one's", 'losses/features', '(n.cumsum(0)-n)[n > 0]', '(n.cumsum(0)-n)[n > 0].flip(0)', 'page:losses/01_features'),
    ('probabilities of padding', 'losses/features', 'seen if mask is None else seen & mask', 'seen if mask is not None else seen & mask', 'page:losses/01_features'),
    ('relations of padding', 'losses/relations', 'mask[:,None,None,:].bool(), mask, total)', 'mask[:,None,None,:] > -1, mask, total)', 'page:losses/04_relations'),
    ('MiniLM with the first layer', 'losses/terms', 'i, j = b.attention_pairs[-1]\n    return R.minilm_loss', 'i, j = b.attention_pairs[0]\n    return R.minilm_loss',
     FORMULA),
    ('CKA with the similarity of tokens to themselves', 'losses/cka', '(x.mT@y).pow(2).sum()-dx@dy', '(x.mT@y).pow(2).sum()', FORMULA),
    ('the table of positions passes for queries', 'compute/attention', 'if layer not in got[what]: ', '',
     'feature_losses::test_debertas_positions_do_not_pass_for_queries'),
    ('a projection is exported', 'train/trainer', "pop(PROJECTION, None)", "get('distill_projection', None)",
     'feature_losses::test_a_narrower_student_trains_its_projections_and_ships_none'),
    ('KL without the factor temp²', 'losses/logits', ', mask, total)*temp**2', ', mask, total)', LOOP),
    ('KL in the other direction', 'losses/logits', '(lt.exp()*(lt-ls))', '(ls.exp()*(ls-lt))', LOOP),
    ('temperature on the student alone', 'losses/logits', '(t.float()/temp)', 't.float()', LOOP),
    ('KL in reverse without the factor temp²', 'losses/divergences', 'return temp**2*masked_mean(d.mean(-1)', 'return masked_mean(d.mean(-1)',
     'third_party::test_a_term_is_its_formula[rkl-sequence] page:losses/20_matrix'),
    ('logits standardized by the deviation of the population', 'losses/divergences', '/(z.shape[-1]-1))', '/z.shape[-1])',
     'third_party::test_a_term_is_its_formula[kl_std-token]'),
    ('the right class has the weight of the others', 'losses/classes', 'alpha*right+beta*wrong', 'beta*right+alpha*wrong',
     'third_party::test_a_term_is_its_formula[dkd-sequence]'),
    ('DIST without the texts of a class', 'losses/classes', 'gamma*uncorrelated(ys.T, yt.T)', 'gamma*uncorrelated(ys, yt)',
     'third_party::test_a_term_is_its_formula[dist-token]'),
    ('RKD without angles', 'losses/texts', 'distance*apart+angle*turned', 'distance*apart+0*turned', 'third_party::test_a_term_is_its_formula[rkd-sequence]'),
    ('the teacher computes in training mode', 'train/teacher', 'model.eval().requires_grad_(False), needed', 'model.train().requires_grad_(False), needed',
     'matrix::test_a_teacher_in_training_mode_makes_a_copy_cost_something'),
    # ---- a vocabulary of the student's own ----
    ('texts in other tokens count in the mean over tokens', 'losses/terms', "if f'same_{k}' in self.totals}", 'if False}',
     'vocab_training::test_texts_in_other_tokens_are_left_out_of_terms_that_compare_tokens'),
    ("the teacher reads the student's token ids", 'train/trainer', "self.teacher_outputs(inputs.get('teacher', inputs))", 'self.teacher_outputs(inputs)',
     'vocab_training::test_logits_are_compared_word_by_word_and_no_further_than_both_have_read'),
    ('words are compared at equal places', 'train/trainer', 'if at is None or out.logits is None: return out', 'return out',
     'vocab_training::test_logits_are_compared_word_by_word_and_no_further_than_both_have_read'),
    ("the teacher's outputs are cached by the student's tokens", 'train/trainer', 'self.train_dataset.for_teacher, e.cache', 'self.train_dataset, e.cache',
     'vocab_training::test_the_teachers_cached_outputs_are_found_by_its_own_tokens'),
    ("the rows of the student's tokens in the teacher's table", 'train/efficiency', 'if theirs[0] is data[0] else used(theirs)', 'if True else used(theirs)',
     'vocab_training::test_the_teachers_table_is_reduced_to_the_tokens_that_it_reads'),
    # ---- training ----
    ('no gradient clipping', 'train/arguments', 'weight_decay=0.)', 'weight_decay=0., max_grad_norm=0.)', LOOP),
    ('no warm-up', 'train/arguments', 'warmup_steps=math.ceil(.1*steps)', 'warmup_steps=0', LOOP),
    ('a learning rate that does not fall', 'train/arguments', "lr_scheduler_type='linear'", "lr_scheduler_type='constant_with_warmup'",
     LOOP),
    ('weight decay', 'train/arguments', 'weight_decay=0.)', 'weight_decay=.01)', LOOP),
    ('the student trains without dropout', 'train/trainer', 'student = forward(model, inputs, self.needed, self.efficient.unpad)\n    teacher',
     'student = forward(model.eval(), inputs, self.needed, self.efficient.unpad)\n    teacher',
     'faults::test_the_student_trains_with_dropout_and_the_seed_decides_it'),
    # ---- weights that change, stages, layers to match, the meter ----
    ('stages in the other order', 'losses/schedules', '(term in self.imitating) == (t < self.stages)', '(term in self.imitating) == (t >= self.stages)',
     'schedules::test_the_second_stage_is_cross_entropy_alone'),
    ('weights reach their end a step late', 'losses/schedules', 'step/max(1, steps-1)', 'step/max(1, steps)', 'schedules::test_weights_by_hand'),
    ('layers are compared as they were copied, whatever match says', 'train/trainer', 'self.layers = match_layers(', 'match_layers(',
     'schedules::test_layers_to_match'),
    ('the meter measures the last micro-batch alone', 'losses/magnitudes', 'a if b is None else b if a is None else a+b', 'a',
     'schedules::test_the_meter_agrees_with_autograd'),
    ('the meter measures the projection, too', 'losses/magnitudes', "if p.requires_grad and PROJECTION not in k.split('.')]", 'if p.requires_grad]',
     'schedules::test_the_meter_agrees_with_autograd'),
    # ---- order, subsets, seeds ----
    ('the order of the data ignores the seed', 'data/order', 'default_rng([seed, epoch])', 'default_rng([0, epoch])',
     'faults::test_the_order_of_the_data_follows_the_seed'),
    ('the same order in every epoch', 'data/order', 'default_rng([seed, epoch])', 'default_rng([seed, 0])',
     'faults::test_the_order_of_the_data_follows_the_seed'),
    ('the subset of the data ignores the seed', 'jobs/fine_tune', 'cfg.fraction, cfg.seed)', 'cfg.fraction, 0)',
     'faults::test_the_subset_follows_the_seed_and_the_teachers_does_not'),
    ("the teacher trains on the student's fraction", 'jobs/fine_tune', 'cfg.teacher_fraction, 0)', 'cfg.fraction, 0)',
     'faults::test_training_reads_training_rows_of_its_languages_and_fraction'),
    ("the teacher's subset follows the seed", 'jobs/fine_tune', 'cfg.teacher_fraction, 0)', 'cfg.teacher_fraction, cfg.seed)',
     'faults::test_the_subset_follows_the_seed_and_the_teachers_does_not'),
    ('a fraction may leave a language without rows', 'data/subsets',
     "df[(u < fraction) | (u == u.groupby(df['language']).transform('min'))]", 'df[u < fraction]',
     'faults::test_a_small_fraction_leaves_no_language_without_rows'),
    ('random weights ignore the seed', 'init/building', "seed_for(spec.seed, 'student')", "seed_for(0, 'student')",
     'initialization::test_scratch_shares_nothing_and_is_the_architectures_own[xlmr]'),
    ('one seed for all purposes', 'core', 'content_key([seed, *purpose], 8)', 'content_key([seed], 8)', 'page:00_core'),
    ("a run's name ignores the seed", 'jobs/config', "SAME_NUMBERS = ('out_dir',", "SAME_NUMBERS = ('seed', 'out_dir',",
     'page:jobs/00_config'),
    # ---- who may see which data ----
    ('the test texts choose the checkpoint', 'jobs/distil', 'eval_dataset=scored_examples(cfg, task, data.validation)', 'eval_dataset=data.test',
     'faults::test_test_texts_and_unseen_languages_decide_nothing'),
    ('the checkpoint is chosen by unseen languages too', 'train/trainer',
     "means.loc['seen' if 'seen' in means.index.levels[0] else 'all']", "means.loc['all']",
     'faults::test_the_checkpoint_is_chosen_by_seen_languages_each_counting_once'),
    ('the last checkpoint is kept, not the best', 'train/arguments', 'load_best_model_at_end=patience > 0', 'load_best_model_at_end=False',
     'faults::test_the_checkpoint_is_chosen_by_seen_languages_each_counting_once'),
    ('all languages count as seen', 'jobs/distil', 'train_languages=task.train_languages, eff', 'train_languages=task.eval_languages, eff',
     'faults::test_test_texts_and_unseen_languages_decide_nothing'),
    ('validation rows stay in the training rows', 'data/subsets', 'train[~held]', 'train[~held | held]',
     'inputs::test_held_out_validation_data_is_stratified page:data/07_subsets'),
    ('equal texts on both sides of the test set', 'data/subsets', "same = _places([' '.join(s.casefold().split()) for s in text])",
     'same = np.arange(len(df))', 'own_data::test_equal_texts_and_translations_stay_on_one_side page:data/07_subsets'),
    ("a teacher's outputs in another order than its numbers", 'models/outputs', 'str(i)) for i in range(n)]', 'str(i)) for i in reversed(range(n))]',
     'own_teacher::test_a_plain_trainers_folder_with_integer_labels page:models/12_outputs'),
    ('the cross-lingual scenario trains on the other half', 'data/catalog', 'list(languages)[1::2]', 'list(languages)[::2]',
     'page:data/02_catalog'),
    ('rows of unseen languages are trained on', 'data/tasks', "about['train_languages' if s == 'train' else",
     "about['eval_languages' if s == 'train' else", 'faults::test_training_reads_training_rows_of_its_languages_and_fraction'),
    # ---- the teacher and its cache ----
    ("the teacher's weights are not in the cache key", 'train/teacher', 'weights=weights_hash(model)', "weights=''",
     'faults::test_a_teacher_gets_its_own_outputs_from_a_cache_that_others_filled'),
    ('examples that begin alike share cached outputs', 'train/teacher', 'flat[a:b].tobytes()', 'flat[a:a+2].tobytes()',
     'faults::test_examples_that_differ_in_one_token_have_outputs_of_their_own'),
    ('cached outputs in the order of length', 'train/teacher', '[v[j] for j in back]', 'list(v)',
     'faults::test_a_teacher_gets_its_own_outputs_from_a_cache_that_others_filled'),
    ('a damaged segment of the cache is used', 'train/store', "if f'segment-{found}.safetensors' != path.name: raise", "if False: raise",
     'store::test_a_flipped_bit_anywhere_is_detected'),
    # ---- copying, heads, depth ----
    ('layers copied from the same position', 'init/copying', 'layers[int(i)]', 'int(i)',
     'initialization::test_what_the_table_of_encoders_claims_holds[xlmr-half_copy]'),
    ('a normalized last layer is compared with an inner one', 'train/trainer', 'n, inner=inner)', 'n)',
     'efficiency::test_a_last_layer_is_compared_with_an_inner_one_before_the_final_norm[off]'),
    ("the base's head is copied", 'init/building', "or p != 'head']", 'or True]', 'faults::test_a_bases_head_is_not_copied_even_if_it_fits'),
    ("a head's bias not reordered with its labels", 'models/encoders', 'out.bias.copy_(out.bias[rows])', 'pass',
     'faults::test_a_head_is_reordered_with_its_bias'),
    ('the trainer compares the first layers', 'jobs/distil', 'task), card.layers,', 'task), list(range(len(card.layers))),',
     'faults::test_training_reads_training_rows_of_its_languages_and_fraction'),
    ('shuffled layers keep some places', 'init/controls', 'while any(a == b for', 'while all(a == b for', 'page:init/09_controls'),
    ('permuted weights are copies', 'init/controls', 'p.copy_(flat.view_as(p))', 'pass', 'controls_init::test_only_the_named_tensors_are_permuted page:init/09_controls'),
    ('mimetic values with the sign of queries', 'init/controls', 'near_identity(d, alpha[1], -beta[1], generator)', 'near_identity(d, alpha[1], beta[1], generator)',
     'page:init/09_controls'),
    ('a last layer is diagnosed after the final norm', 'init/diagnosis', 'return UNNORMED if i == model.config.num_hidden_layers-1 else i+1', 'return i+1',
     'controls_init::test_numbers_are_those_of_a_plain_computation[mmbert]'),
    ('the divergence of padding counts', 'init/diagnosis', "counts = batch['valid'] & torch.from_numpy(", "counts = torch.ones_like(batch['valid']) & torch.from_numpy(",
     'controls_init::test_padding_of_words_does_not_count'),
    ('the distance from the trained weights', 'jobs/distil', 'write_distance(run, card, before, trainer.model)',
     'write_distance(run, card, start_weights(trainer.model), trainer.model)', 'controls_init::test_a_run_has_its_diagnosis_and_the_distance'),
    ('every other layer begins with layer 0', 'init/depth', '[(i+1)*n//m-1 for', '[i*n//m for', 'page:init/00_depth'),
    ('end points rounded down', 'init/depth', '/(m-1)+.5)', '/(m-1))', 'page:init/00_depth'),
    ('a prefix of one layer too few is taken for shared', 'init/search', '[before, s]))+1:]', '[before, s]))+2:]',
     'depth_evidence::test_shared_prefixes_compute_what_copied_students_do[xlmr]'),
    ('the language with the most texts chooses the layers', 'init/sample', 'np.mean(list(each.values()), 0)', 'totals.sum(1)/counts.sum()',
     'depth_evidence::test_languages_count_alike_whatever_their_number_of_texts'),
    ('greedy keeps the worst', 'init/search', 'keep = layers_in(rounds[-1].layers[0])', 'keep = layers_in(rounds[-1].layers.iloc[-1])',
     'depth_evidence::test_exhaustive_is_the_best_of_all_and_greedy_steps_to_the_best_next'),
    ('a layer folded without its difference', 'init/merging', '(plan[l].weights, 1-k)', '(plan[l].weights, 1)',
     'depth_evidence::test_laco_folds_differences_and_keeps_as_many_layers_as_asked_for'),
    ('padding is fitted', 'init/refit', 'at = mask.bool()', 'at = torch.ones_like(mask).bool()', 'depth_evidence::test_refit_does_not_see_padding[xlmr]'),
    ('a layer is fitted to its own output', 'init/refit', '[*(s-1 for s in layers[1:]), n-1]', '[*layers[:-1], n-1]',
     'depth_evidence::test_refit_is_an_independent_least_squares[xlmr]'),
    ('a fit does not see the errors before it', 'init/refit', 'nexts[k] = one.run(i, h), t', 'nexts[k] = one.run(i, h)*0+t, t',
     'depth_evidence::test_refit_is_sequential'),
    ("a fitted layer keeps its own norm", 'init/refit', 'if block.norm: layer.get_submodule(block.norm).load', 'if False: layer.get_submodule(block.norm).load',
     'depth_evidence::test_refit_is_an_independent_least_squares[xlmr]'),
    # ---- padding and embedding rows ----
    ('hidden states read with padding among them', 'compute/forward', 'else x.index_select(0, token_index)', 'else x[:len(token_index)]',
     PADDED),
    ('without padding, attention sees no mask', 'compute/unpadding', 'padded(value), mask, **kw)', 'padded(value), None, **kw)', LOOP),
    ('trained embedding rows are not put back', 'compute/embedding_rows', 'self.small.weight.detach().to(r.full.weight)',
     'r.full.weight[r.ids.to(r.full.weight.device)]', LOOP),
    # ---- encoding and evaluation ----
    ('no truncation', 'data/encoding', 'truncation=True', 'truncation=False', 'faults::test_a_long_example_is_cut_with_its_tags'),
    ('every subword has a label', 'data/encoding', 'if w is None or w == prev else', 'if w is None else', 'page:data/10_encoding'),
    ('labels numbered in alphabetical order', 'data/encoding', 'enumerate(labels)}', 'enumerate(sorted(labels))}', 'page:data/10_encoding'),
    ('predictions in the order of length', 'evaluation/scores', '[v[i] for i in back]', 'list(v)', 'page:evaluation/00_scores'),
    ('the mean over languages weighted by n', 'evaluation/scores', "d.drop(columns=[*how, 'n']).mean()",
     "d.drop(columns=[*how, 'n']).mul(d.n/d.n.sum(), axis=0).sum()", 'faults::test_a_mean_over_languages_counts_each_language_once'),
    ('scoring with dropout', 'evaluation/scores', '    model.eval()\n    try:', '    try:',
     'faults::test_scoring_uses_no_dropout_and_leaves_the_model_training'),
    ("student's and teacher's predictions exchanged", 'jobs/distil', 'dict(student=student, teacher=theirs)',
     'dict(teacher=student, student=theirs)', 'faults::test_test_texts_and_unseen_languages_decide_nothing'),
    ('tokens of other texts read from the cache', 'data/token_cache', 'content_key([texts_hash(df), ', 'content_key([',
     'token_cache::test_whatever_decides_the_tokens_decides_the_key'),
    ('a hash of weights that were changed since', 'models/encoders', 'had[0] == state', 'had[1]',
     'teacher_scores::test_weights_are_hashed_again_after_any_change'),
    ('scores of the validation examples recorded as test', 'jobs/distil', 'models, task, data.test,', 'models, task, data.validation,',
     'faults::test_test_texts_and_unseen_languages_decide_nothing'),
    ('macro-F1 over predicted labels too', 'evaluation/scores', 'labels=np.unique(g), ', '',
     'evaluation::test_macro_f1_agrees_with_a_count_by_hand'),
    ('words cut off are no part of the score', 'evaluation/scores', "tags = np.full(n, 'O', dtype=object)",
     "tags = np.full(min(n, words.max()+1), 'O', dtype=object)", 'page:evaluation/00_scores'),
    ('a language without entities counts as zero', 'evaluation/scores', "f'entity_{k}': np.nan for k in scores",
     "f'entity_{k}': 0. for k in scores", 'files_door::test_a_language_without_entities_has_no_f1_and_is_left_out'),
    ('tags are not checked', 'data/labels', 'if not wrong: return', 'return', 'files_door::test_tags_that_cannot_be_scored_are_refused'),
    ('labels spelled otherwise in the test rows', 'data/own', 'check_spelling(names_of(train).unique(), names_of(other).unique(),',
     'check_spelling(names_of(train).unique(), names_of(train).unique(),', 'files_door::test_a_split_with_another_spelling_is_refused'),
    ('ids that come twice stay', 'data/tasks', "twice = d.duplicated(['language', 'id'], keep=False)",
     "twice = d.duplicated(['language', 'id'], keep=False) & False", 'files_door::test_ids_that_come_twice_are_numbered'),
    # ---- comparisons ----
    ('a normal interval for few seeds', 'analysis/stats', 'half = stdtrit(max(n-1, 1), (1+level)/2)*spread(y)', 'half = 1.96*spread(y)',
     'stats::test_t_agrees_with_scipy_and_statsmodels'),
    ("Holm's correction without its order", 'analysis/stats', 'np.arange(len(order), 0, -1)', 'len(order)',
     'stats::test_holm_agrees_with_statsmodels_and_leaves_out_what_was_not_tested'),
    ('each language draws its own seeds in a difference', 'analysis/compare', "row(mean_interval(d[langs], 'mean', level, sampled)",
     "row(mean_interval(d[langs].stack().to_frame(), 'mean', level, sampled)", 'stats::test_differences_keep_a_seed_together'),
    ('differences not paired by seed', 'analysis/compare', 'd = (x-arrays[other])', 'd = (x-arrays[other].mean())',
     'faults::test_a_difference_is_taken_within_a_seed'),
    ('translations of one text drawn apart', 'analysis/stats', 'draw_groups(language, ids) if', 'draw_groups(language, None) if',
     'stats::test_translations_are_drawn_together'),
    ('an interval from a handful of examples', 'analysis/stats', 'if units >= least and', 'if',
     'stats::test_too_few_or_equal_examples_have_no_interval'),
    # ---- records, locks, markup ----
    ('JSON written in place', 'core', 'with replacing(path, **kw) as tmp: tmp.write_text(json',
     'for tmp in [Path(path)]: tmp.write_text(json', 'faults::test_files_are_replaced_and_never_written_into'),
    ('a history keeps the steps that are repeated', 'record', "r['step'] <= step", 'True', 'page:03_record'),
    ('an unfinished run is a result', 'record', 'if not run.finished: raise', 'if False: raise', 'page:03_record'),
    ('two processes build the same folder', 'core', ", FileLock(f'{path}.lock'):", ':',
     'faults::test_a_folder_is_built_once_however_many_need_it'),
    ('a worker takes a run that another one trains', 'jobs/study', 'except Timeout: return False', 'except Timeout: return True',
     'faults::test_a_run_that_somebody_trains_is_not_free'),
    ('texts become HTML', 'markup', "<span>\\g<0></span>', escape(visible(value, limit)))", "<span>\\g<0></span>', visible(value, limit))",
     'page:01_markup'),
    ('texts become Markdown', 'markup', "' else f'&#{ord(m[0])};'", "' else m[0]", 'page:01_markup'),
    ('texts become markup of a figure', 'markup', 'return escape(s, quote=False).replace', 'return s.replace', 'page:01_markup'),
    ("examples shown as they are in the explorer", 'apps/explorer_views', 'html_text(r.text, TEXT_LIMIT)', 'r.text',
     'page:apps/05_explorer_views markup::test_the_explorer_and_its_views'),
    ('a flipped byte is not noticed', 'core', 'if contents and file_hash(path) !=', 'if False and file_hash(path) !=',
     'checkpoints::test_a_byte_of_a_cached_teacher_is_noticed'),
    ('a damaged checkpoint is resumed from', 'checkpoints', 'if not (faults := checkpoint_faults(p, best)): return',
     'if not (faults := {}): return', 'checkpoints::test_without_a_whole_checkpoint_the_run_begins_anew_and_says_so'),
    ('rows that a history has lost stay lost', 'checkpoints', 'elif n := lost_rows(history.path, copy):', 'elif n := 0:',
     'checkpoints::test_rows_that_the_history_lost_are_noticed_and_restored'),
    # ---- what a run is ----
    ("the teacher's new head is drawn from the global random state", 'jobs/fine_tune', "task.labels, seed=seed_for(0, 'teacher'))",
     'task.labels)', 'faults::test_an_automatic_teacher_depends_on_nothing_that_was_drawn_before'),
    ("a teacher's key does not know its base", 'jobs/fine_tune', 'content_key([content_of(base), task.kind', "content_key(['', task.kind",
     'identity::test_bases_with_equal_weights_and_other_tokenizers_give_two_teachers'),
    ("a run's name knows paths, not content", 'jobs/config', "{k: v if v in ('', 'auto', 'playground') else content.content_of(v) for",
     '{k: v for', 'identity::test_a_retrained_teacher_in_the_same_folder_is_another_run'),
    ('a run goes on with another teacher', 'jobs/distil', 'if had.get(k, v) != v]', 'if False]',
     'identity::test_an_automatic_teacher_that_came_out_differently_does_not_take_over_an_unfinished_run'),
    ('the subset depends on the order of rows in a file', 'data/subsets', "row_hashes(df, seed, 'fraction').argsort(kind='stable')",
     'np.random.default_rng(seed).permutation(len(df))', 'faults::test_the_order_of_rows_in_a_file_changes_no_subset'),
    ('a quick trial scores other texts for another seed', 'data/tasks', "seed if s == 'train' else 0)", 'seed)',
     'identity::test_a_quick_trial_scores_the_same_texts_for_every_seed'),
    ("the learning rate follows the student's size", 'jobs/distil', 'arguments_of(cfg, models.teacher, data.train',
     'arguments_of(cfg, student, data.train', 'faults::test_all_students_of_a_teacher_have_one_learning_rate'),
    ('the untrained student is no candidate', 'jobs/fine_tune', 'trainer.keep_start(start)', 'pass',
     'faults::test_the_untrained_student_is_kept_if_training_only_harms'),
    # ---- a vocabulary that is trimmed ----
    ('a kept token lacks the parts that it is merged from', 'models/tokenizer_file', 'for p in parts.get(todo[-1], ()) if p not in found]', 'for p in ()]',
     'vocabulary::test_texts_whose_tokens_are_kept_are_divided_as_before'),
    ('a token that several merges give has the parts of the first', 'models/tokenizer_file', 'last_merge(c, ranks, signs(c), len(prefix)) or pairs[0]',
     'pairs[-1]', 'vocabulary::test_texts_whose_tokens_are_kept_are_divided_as_before'),
    ('the penalty of unknown characters moves', 'models/tokenizer_file', '*lowest_id(model), *unknown', '*unknown',
     'vocabulary::test_the_penalty_of_unknown_characters_stays'),
    ('the frame of a text has the former ids', 'models/tokenizer_file', "if 'ids' in new and 'tokens' in new:", 'if False:',
     'vocabulary::test_frames_pairs_padding_and_files_follow'),
    ('positions are counted from where padding was', 'models/trim', 'if k in moved: return v[shift:]', 'if k in moved: return v[:-shift]',
     'vocabulary::test_every_architecture_computes_the_same'),
    ('a trimmed model is not compared with the whole one', 'models/trim', 'if one.shape == two.shape and torch.equal(one, two): return', 'return',
     'vocabulary::test_a_model_that_computes_something_else_is_refused'),
    ('the language in need has to wait', 'models/vocabulary', 'n = int(share.argmax())', 'n = int(share.argmin()) if share.min() >= 0 else int(share.argmax())',
     'vocabulary::test_the_language_in_need_is_next_step_by_step'),
    ('the size from which a text is unchanged is one too small', 'models/vocabulary', 'place[t].max()+1 for t', 'place[t].max() for t',
     'vocabulary::test_the_curve_is_what_tokenizing_again_gives'),
    ('texts that choose the size are counted too', 'models/vocabulary', 'return texts[~tenth], texts[tenth]', 'return texts, texts[tenth]',
     'vocabulary::test_held_out_texts_are_not_counted'),
    ('more text keeps its capitals', 'models/vocabulary', 'more = in_lower_case(more)', 'pass',
     'vocabulary::test_more_text_is_read_in_the_case_of_the_runs_texts'),
    # ---- models ----
    ('weights that are missing are not looked at', 'models/loading', 'check_report(model, report, name, new_head=bool(labels))', 'pass',
     'models_door::test_names_of_a_compiled_model_are_refused'),
    ('a new head is drawn from the global random state', 'models/loading', 'drawn_from(seed):', 'drawn_from(None):',
     'models_door::test_a_new_head_depends_on_its_seed_alone'),
    ('what lives in one layer alone is not copied', 'init/copying', 'where = only_owner(where, source_stack, theirs) or where', 'continue',
     'models_door::test_the_bias_of_all_blocks_follows_and_the_card_says_from_where'),
    ('padding may change what a model computes', 'models/loading', 'check_padding(model.eval())', 'model.eval()',
     'models_door::test_architectures_whose_outputs_depend_on_padding_are_refused'),
)]


# ---- a fault in a tree ----

def module_path(root:Path, f:Fault)->Path: return root/'privkd_nb'/f'{f.module}.py'


def page_of(module:Path)->Path|None:
    "The notebook that a module is exported from"
    found = re.search(r'File to edit: (\S+\.ipynb)', module.read_text(encoding='utf-8'))
    return (module.parent/found[1]).resolve() if found else None


def replaced(text:str, f:Fault, where)->str:
    "A text with the fault in it; the place must be found exactly once"
    if f.old == f.new: raise ToolError(f'{f.name}: nothing is replaced.')
    if (n := text.count(f.old)) != 1: raise ToolError(f'{f.name}: {f.old!r} stands {n} times in {where}; it must stand there once.')
    return text.replace(f.old, f.new)


def with_fault(root:Path, f:Fault)->dict[Path,str]:
    "The files that a fault changes, and what they hold with it"
    module = module_path(root, f)
    if not module.is_file(): raise ToolError(f'{f.name}: there is no module {module.relative_to(root)}.')
    new = {module: replaced(module.read_text(encoding='utf-8'), f, module.relative_to(root))}
    compile(new[module], str(module), 'exec')
    if page := page_of(module):
        nb = json.loads(page.read_text(encoding='utf-8'))
        cells = [c for c in nb['cells'] if c['cell_type'] == 'code' and f.old in ''.join(c['source']) and ''.join(c['source']).startswith('#| export')]
        if len(cells) != 1: raise ToolError(f'{f.name}: {f.old!r} stands in {len(cells)} exported cells of {page.name}; it must stand in one.')
        cells[0]['source'] = replaced(''.join(cells[0]['source']), f, page.name)
        new[page] = json.dumps(nb)
    return new


# ---- tests ----

def node(root:Path, t:str)->str:
    "A test as pytest, or nbdev_test, knows it; one that does not exist is an error"
    if t.startswith('page:'): path, name = f'nbs/api/{t[5:]}.ipynb', ''
    else:
        stem, _, name = t.partition('::')
        path = f'tests/test_{stem}.py'
    if not (root/path).is_file(): raise ToolError(f'there is no {path}.')
    for part in filter(None, name.split('[')[0].split('::')):
        if not re.search(rf'^\s*(def|class) {part}\b', (root/path).read_text(encoding='utf-8'), re.M): raise ToolError(f'{path} has no {part}.')
    return path+(f'::{name}' if name else '')


def quick(root:Path)->list[str]:
    "The whole quick set: all test files without those that start processes or a browser"
    return [f'tests/{p.name}' for p in sorted((root/'tests').glob('test_*.py')) if not any(w in p.stem for w in SLOW)]


PRELOADED = 'torch transformers.trainer transformers.models.xlm_roberta.modeling_xlm_roberta accelerate datasets sklearn.metrics plotly.graph_objects nbdev.test'.split()


def serve(preloaded:list[str])->None:
    "Run tests on request, each in a fork of this process, which has the large packages loaded already, and never the one that is tested"
    import importlib
    for name in preloaded: importlib.import_module(name)
    for line in sys.stdin: print(json.dumps(forked(**json.loads(line))), flush=True)


def forked(tests:list[str], root:str, cache:str, log:str, timeout:float)->int|None:
    "Exit status of some tests in a tree; None after the timeout"
    if not (pid := os.fork()): os._exit(in_fork(tests, root, cache, log))
    end = time.time()+timeout
    while time.time() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status)
        time.sleep(.05)
    os.killpg(pid, signal.SIGKILL)          # its own process group, from `setsid`
    os.waitpid(pid, 0)


def in_fork(tests:list[str], root:str, cache:str, log:str)->int:
    "Run pytest, or a page, on a tree; what it prints goes to a file"
    os.setsid()
    out = os.open(log, os.O_WRONLY|os.O_CREAT|os.O_TRUNC)
    for fd in (1, 2): os.dup2(out, fd)
    try:
        os.chdir(root)
        os.environ |= dict(PYTHONPATH=root, PRIVKD_CACHE=cache)
        sys.path.insert(0, root)
        from importlib.util import find_spec
        if not find_spec('privkd_nb').origin.startswith(root): raise ToolError(f'privkd_nb is not the one in {root}.')
        if not tests[0].endswith('.ipynb'):
            import pytest
            return int(pytest.main(['-q', '-rfE', '--tb=short', '-p', 'no:cacheprovider', *tests]))
        from nbdev.test import nbdev_test
        nbdev_test(path=tests[0], n_workers=0)
        return 0
    except SystemExit as e: return e.code if isinstance(e.code, int) else 1
    except BaseException: traceback.print_exc(); return 99
    finally: sys.stdout.flush(); sys.stderr.flush()


class Server:
    "The process that runs tests; within the block it is there"
    def __init__(self, preloaded:list[str], folder:Path): self.preloaded, self.log = preloaded, folder/'log.txt'
    def __enter__(self):
        env = os.environ | dict(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false', PYTHONDONTWRITEBYTECODE='1')
        self.p = subprocess.Popen([sys.executable, __file__, '--serve', *self.preloaded], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        return self
    def __exit__(self, *exc):
        self.p.stdin.close()
        try: self.p.wait(5)
        except subprocess.TimeoutExpired: self.p.kill()
    def run(self, tests:list[str], root:Path, cache:Path, timeout:float)->tuple[int|None,str]:
        "Exit status, None after the timeout, and output"
        self.p.stdin.write(json.dumps(dict(tests=tests, root=str(root), cache=str(cache), log=str(self.log), timeout=timeout))+'\n')
        self.p.stdin.flush()
        if not (answer := self.p.stdout.readline()): raise ToolError('the process that runs tests has ended.')
        return json.loads(answer), self.log.read_text(encoding='utf-8', errors='replace')


def failures(server:Server, tests:list[str], root:Path, cache:Path, timeout:float)->list[str]:
    "The tests that fail"
    nodes, failed = [t for t in tests if not t.endswith('.ipynb')], []
    for some in [nodes]*bool(nodes)+[[t] for t in tests if t not in nodes]:
        rc, out = server.run(some, root, cache, timeout)
        names = re.findall(r'^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$', out, re.M) if some is nodes else some
        if rc is None: failed.append(f'{some[0]} (no end after {timeout:g} s)')
        elif rc not in (0, 1, 2) or rc and not names or some is nodes and not rc and not re.search(r'\d+ passed', out):
            raise ToolError(f'{" ".join(some)} ended with status {rc}:\n{out[-2000:]}')
        elif rc: failed += names
    return failed


# ---- all of it ----

def copy_tree(root:Path, to:Path)->Path:
    "A copy of the tree, beside the shared data if there are any"
    if (shared := root.parent/'shared').is_dir(): (to/'shared').symlink_to(shared.resolve())
    return Path(shutil.copytree(root, to/'tree', ignore=shutil.ignore_patterns(*SKIPPED, '*.egg-info')))


def tree_key(root:Path)->str:
    "A hash of package, pages and tests, which results depend on"
    files = sorted(p for d,end in (('privkd_nb', 'py'), ('tests', 'py'), ('nbs/api', 'ipynb')) for p in (root/d).rglob(f'*.{end}'))
    return hashlib.sha256(b''.join(str(p.relative_to(root)).encode()+p.read_bytes() for p in files)).hexdigest()


def mutate(faults:list[Fault], root:Path=ROOT, results:Path|None=None, whole:bool=False, again:bool=False, timeout:float=120, say=lambda s: None, preloaded=())->dict[str,dict]:
    "Put in one fault after the other; by name, the tests that noticed and the seconds it took"
    tree, known = tree_key(root), json.loads(results.read_text()) if results and results.exists() else {}
    keys = {f.name: hashlib.sha256(json.dumps([*astuple(f), whole, tree]).encode()).hexdigest() for f in faults}
    tests = {f.name: quick(root) if whole else [node(root, t) for t in f.tests.split()] for f in faults}
    for f in faults: with_fault(root, f)                                            # all places are there before anything starts
    todo = [f for f in faults if again or known.get(f.name, {}).get('key') != keys[f.name]]
    if not todo: return {f.name: known[f.name] for f in faults}
    with tempfile.TemporaryDirectory(prefix='mutate-') as tmp, Server(preloaded, tmp := Path(tmp).resolve()) as server:
        copy, clean, cache = copy_tree(root, tmp), tmp/'clean', tmp/'cache'
        clean.mkdir()
        needed = list(dict.fromkeys(t for f in todo for t in tests[f.name]))
        say(f'{len(needed)} tests without a fault')
        if bad := failures(server, needed, copy, clean, 20*timeout): raise ToolError(f'{", ".join(bad)}: fails without any fault.')
        for f in todo:
            before, start = {p: p.read_text(encoding='utf-8') for p in with_fault(copy, f)}, time.time()
            shutil.rmtree(cache, ignore_errors=True); shutil.copytree(clean, cache)     # what a fault leaves in a cache reaches no other
            try:
                for p,text in with_fault(copy, f).items(): p.write_text(text, encoding='utf-8')
                noticed = failures(server, tests[f.name], copy, cache, timeout)
            finally:
                for p,text in before.items(): p.write_text(text, encoding='utf-8')
            known[f.name] = dict(key=keys[f.name], noticed=noticed, seconds=round(time.time()-start, 1))
            say(f"{f.name}: {', '.join(noticed) or 'SURVIVED'} ({known[f.name]['seconds']} s)")
            if results:
                results.parent.mkdir(parents=True, exist_ok=True)
                (new := results.with_suffix('.tmp')).write_text(json.dumps(known, indent=1))
                new.replace(results)
    return {f.name: known[f.name] for f in faults}


def table(faults:list[Fault], found:dict[str,dict])->str:
    "Results as Markdown"
    def short(t): return re.sub(r'^tests/test_(\w+)\.py', r'\1', t).partition('[')[0].replace('nbs/api/', 'page ').replace('.ipynb', '')
    def names(f): return '; '.join(dict.fromkeys(map(short, found[f.name]['noticed']))) or '**survived**'
    def one(f): return f"| {f.name} | `{f.module}` | {names(f)} | {found[f.name]['seconds']:g} |"
    left = [f.name for f in faults if not found[f.name]['noticed']]
    end = f"{len(faults)-len(left)} of {len(faults)} faults were noticed"+(f"; these survived: {', '.join(left)}." if left else '.')
    return '\n'.join(['| fault | module | noticed by | s |', '|---|---|---|---|', *map(one, faults), '', end])


def main(argv=None)->int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--list', action='store_true', help='show the faults and end')
    ap.add_argument('--only', nargs='+', metavar='NAME', help='faults whose names contain one of these')
    ap.add_argument('--all', action='store_true', help='run the whole quick set for each fault')
    ap.add_argument('--again', action='store_true', help='use no earlier results')
    ap.add_argument('--timeout', type=float, default=120, help='seconds for the tests of one fault')
    ap.add_argument('--results', type=Path, default=ROOT/'.cache'/'mutations.json', help='where results are kept')
    o = ap.parse_args(argv)
    faults = [f for f in FAULTS if not o.only or any(n in f.name for n in o.only)]
    if o.list:
        for f in faults: print(f'{f.name} ({f.module}): {f.tests}')
        return 0
    if hasattr(os, 'nice'): os.nice(15)
    try: found = mutate(faults, ROOT, o.results, o.all, o.again, o.timeout if not o.all else 10*o.timeout, lambda s: print(s, file=sys.stderr, flush=True), PRELOADED)
    except ToolError as e: sys.exit(f'mutate: {e}')
    print(table(faults, found))
    return int(any(not v['noticed'] for v in found.values()))


if __name__ == '__main__': sys.exit(serve(sys.argv[2:]) if sys.argv[1:2] == ['--serve'] else main())
