import { MockLanguageModelV3 } from 'ai/test';
import { define } from './ai.mjs';
import { exampleCase, typesCase } from './support.mjs';

define('ai6', MockLanguageModelV3);
exampleCase('ai6', 'ai-sdk-refund.mjs');
typesCase('ai6', 'ai-sdk.md');
