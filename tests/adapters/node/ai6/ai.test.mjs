import { MockLanguageModelV3 } from 'ai/test';
import { define } from './ai.mjs';

define('ai6', MockLanguageModelV3);
