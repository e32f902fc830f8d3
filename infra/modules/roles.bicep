// Who may do what, all of it: the apps' identity, and the operator who deploys.
param appPrincipalId string
param operatorPrincipalId string
param operatorPrincipalType string
param storageName string
param serviceBusName string
param foundryName string
param vaultName string
param insightsName string

var roles = loadJsonContent('../roles.json')
var operated = !empty(operatorPrincipalId)

resource storage 'Microsoft.Storage/storageAccounts@2025-06-01' existing = {
  name: storageName
}

resource bus 'Microsoft.ServiceBus/namespaces@2024-01-01' existing = {
  name: serviceBusName
}

resource foundry 'Microsoft.CognitiveServices/accounts@2025-06-01' existing = {
  name: foundryName
}

resource vault 'Microsoft.KeyVault/vaults@2024-11-01' existing = {
  name: vaultName
}

resource insights 'Microsoft.Insights/components@2020-02-02' existing = {
  name: insightsName
}

// The host keeps its locks and the deployment package there; below Owner it does not start.
resource appBlobDataOwner 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(storage.id, appPrincipalId, roles['Storage Blob Data Owner'])
  scope: storage
  properties: {
    principalId: appPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Storage Blob Data Owner'])
  }
}

// Conversations, operations, ledger.
resource appTableDataContributor 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(storage.id, appPrincipalId, roles['Storage Table Data Contributor'])
  scope: storage
  properties: {
    principalId: appPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Storage Table Data Contributor'])
  }
}

// Queues of applications that use aos.storage.
resource appQueueDataContributor 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(storage.id, appPrincipalId, roles['Storage Queue Data Contributor'])
  scope: storage
  properties: {
    principalId: appPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Storage Queue Data Contributor'])
  }
}

// Triggers.
resource appBusDataReceiver 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(bus.id, appPrincipalId, roles['Service Bus Data Receiver'])
  scope: bus
  properties: {
    principalId: appPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Service Bus Data Receiver'])
  }
}

// Tool calls, replies, parked messages; at the namespace, because replies go to queues of other apps.
resource appBusDataSender 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(bus.id, appPrincipalId, roles['Service Bus Data Sender'])
  scope: bus
  properties: {
    principalId: appPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Service Bus Data Sender'])
  }
}

// Agents, conversations, responses, list of deployments.
resource appAzureAiUser 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(foundry.id, appPrincipalId, roles['Azure AI User'])
  scope: foundry
  properties: {
    principalId: appPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Azure AI User'])
  }
}

// App settings that refer to secrets.
resource appSecretsUser 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(vault.id, appPrincipalId, roles['Key Vault Secrets User'])
  scope: vault
  properties: {
    principalId: appPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Key Vault Secrets User'])
  }
}

// Telemetry.
resource appMonitoringMetricsPublisher 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(insights.id, appPrincipalId, roles['Monitoring Metrics Publisher'])
  scope: insights
  properties: {
    principalId: appPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Monitoring Metrics Publisher'])
  }
}

// Upload registries.
resource operatorBlobDataContributor 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (operated) {
  name: guid(storage.id, operatorPrincipalId, roles['Storage Blob Data Contributor'])
  scope: storage
  properties: {
    principalId: operatorPrincipalId
    principalType: operatorPrincipalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Storage Blob Data Contributor'])
  }
}

// `python -m aos foundry migrate`.
resource operatorTableDataContributor 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (operated) {
  name: guid(storage.id, operatorPrincipalId, roles['Storage Table Data Contributor'])
  scope: storage
  properties: {
    principalId: operatorPrincipalId
    principalType: operatorPrincipalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Storage Table Data Contributor'])
  }
}

// `python -m aos dead-letters list`.
resource operatorBusDataReceiver 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (operated) {
  name: guid(bus.id, operatorPrincipalId, roles['Service Bus Data Receiver'])
  scope: bus
  properties: {
    principalId: operatorPrincipalId
    principalType: operatorPrincipalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Service Bus Data Receiver'])
  }
}

// `python -m aos dead-letters replay`.
resource operatorBusDataSender 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (operated) {
  name: guid(bus.id, operatorPrincipalId, roles['Service Bus Data Sender'])
  scope: bus
  properties: {
    principalId: operatorPrincipalId
    principalType: operatorPrincipalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Service Bus Data Sender'])
  }
}

// Look at agents and conversations.
resource operatorAzureAiUser 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (operated) {
  name: guid(foundry.id, operatorPrincipalId, roles['Azure AI User'])
  scope: foundry
  properties: {
    principalId: operatorPrincipalId
    principalType: operatorPrincipalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Azure AI User'])
  }
}

// Set secrets.
resource operatorSecretsOfficer 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (operated) {
  name: guid(vault.id, operatorPrincipalId, roles['Key Vault Secrets Officer'])
  scope: vault
  properties: {
    principalId: operatorPrincipalId
    principalType: operatorPrincipalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Key Vault Secrets Officer'])
  }
}
