package org.actpass

import java.io.File
import org.actpass.bridge.NativeAction
import org.actpass.bridge.NativeCredential
import org.actpass.bridge.NativeIssued
import org.actpass.bridge.NativeLanguage
import org.actpass.bridge.NativeOfflineVerifyRequest
import org.actpass.bridge.NativeSettings
import org.actpass.bridge.NativeVerifyRequest
import org.actpass.bridge.Secret
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test

/** Generated types never print the secrets that they store. */
class SecretTest {
    private val secret = Secret("generated_secret")

    @Test
    fun generatedTypesHideSecrets() {
        val held = listOf<Any>(
            secret,
            NativeSettings(NativeLanguage.KOTLIN, secret, null, null, null, null, null, null, null, null, null, null, secret, false),
            NativeAction("g", "t", "", "{}", null, secret, null, null, null, null, null, null),
            NativeCredential(secret, null, secret),
            NativeIssued(secret, secret),
            NativeVerifyRequest(secret, "a", null, null, null, null),
            NativeOfflineVerifyRequest(secret, "a", null, null, null, null),
        )
        for (value in held) assertFalse("${value.javaClass}", "generated_secret" in everythingShown(value))
        for (value in held) assertTrue("${value.javaClass}", "[redacted]" in value.toString())
    }

    /** Detects a new generated type that stores a secret as plain text. */
    @Test
    fun generatedTypesStoreNoSecretAsString() {
        val classes = File(NativeSettings::class.java.protectionDomain.codeSource.location.toURI())
            .walk()
            .filter { it.extension == "class" && it.name.startsWith("Native") }
            .map { Class.forName("org.actpass.bridge." + it.nameWithoutExtension) }
            .toList()
        assertTrue(classes.any { it == NativeSettings::class.java })
        val names = setOf("apiKey", "passport", "token", "secret", "credential", "key", "dpopKey")
        val shown = classes.flatMap { type -> type.declaredFields.filter { it.name in names && it.type == String::class.java } }
        assertEquals(emptyList<Any>(), shown)
    }
}
